//! Frequency and idle states of the isolated CPUs: a core that slept deeply answers late.

use crate::config::Config;
use crate::failure::Failure;
use crate::machine::{CPU, Machine};
use crate::place::{Place, State};
use crate::wish::{Wish, Wishes};

/// The governor `performance`, and slow idle states off.
pub(super) fn wishes(machine: &Machine, config: &Config) -> Result<Wishes, Failure> {
    let mut wishes = Wishes::default();
    let root = &machine.root;
    let mut governed = false;
    for cpu in &config.isolated {
        let governor = format!("{CPU}/cpu{cpu}/cpufreq/scaling_governor");
        if let Some(now) = root.text(&governor) {
            governed = true;
            let offered = format!("{CPU}/cpu{cpu}/cpufreq/scaling_available_governors");
            let offered = root.text(offered).unwrap_or_default();
            let mut wish = Wish::new(Place::value(governor), State::text("performance"));
            if now != "performance" && !offered.split_ascii_whitespace().any(|g| g == "performance")
            {
                wish = wish.fixed(format!("the driver offers {offered}"));
            }
            wishes.push(wish);
        }
        for state in root.numbered(format!("{CPU}/cpu{cpu}/cpuidle"), "state") {
            let base = format!("{CPU}/cpu{cpu}/cpuidle/state{state}");
            let number = |file: &str| root.text(format!("{base}/{file}"))?.parse::<u64>().ok();
            let (Some(latency), true) = (number("latency"), root.exists(format!("{base}/disable")))
            else {
                continue;
            };
            if latency > config.max_idle_latency_us {
                let name = root.text(format!("{base}/name")).unwrap_or_default();
                let place = Place::value(format!("{base}/disable"));
                let wish = Wish::new(place, State::text("1"));
                wishes.push(wish.detail(format!("{name}, wakes up in {latency} us")));
            }
        }
    }
    if !governed && !config.isolated.is_empty() {
        wishes.note("no cpufreq here: the hypervisor or the firmware chooses the frequency");
    }
    Ok(wishes)
}
