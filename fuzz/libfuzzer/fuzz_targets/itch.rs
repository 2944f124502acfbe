//! The target `itch` of `hybrid_fuzz` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let target = hybrid_fuzz::find("itch").expect("a target");
    (target.run)(data);
});
