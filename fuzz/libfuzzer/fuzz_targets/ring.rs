//! The target `ring` of `hybrid_fuzz` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let target = hybrid_fuzz::find("ring").expect("a target");
    (target.run)(data);
});
