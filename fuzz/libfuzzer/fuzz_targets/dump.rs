//! The target `dump` of `hybrid_fuzz` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let target = hybrid_fuzz::find("dump").expect("a target");
    (target.run)(data);
});
