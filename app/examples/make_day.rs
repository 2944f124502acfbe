//! Writes a synthetic day to a file: `make_day FILE [MESSAGES [STOCKS [SEED]]]`.

use feed_handler::synth::{StockSlot, Synth, SynthConfig};
use std::io::Write;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: make_day FILE [MESSAGES [STOCKS [SEED]]]")?;
    let mut numbers = args.map(|arg| arg.parse::<u64>());
    let mut config = SynthConfig::default();
    config.messages = numbers.next().transpose()?.unwrap_or(config.messages);
    let stocks = numbers.next().transpose()?.map(u16::try_from).transpose()?;
    config.stocks = stocks.unwrap_or(config.stocks);
    config.seed = numbers.next().transpose()?.unwrap_or(config.seed);

    let mut slots = vec![StockSlot::default(); usize::from(config.stocks)];
    let mut synth = Synth::new(config, &mut slots)?;
    let mut file = std::fs::File::create(path)?;
    let mut buffer = vec![0; 128 * 1024];
    loop {
        let bytes = synth.fill(&mut buffer);
        if bytes == 0 {
            return Ok(());
        }
        file.write_all(buffer.get(..bytes).unwrap_or(&[]))?;
    }
}
