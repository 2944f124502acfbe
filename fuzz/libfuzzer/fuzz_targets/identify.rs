//! The target `identify` of `hybrid_fuzz` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let target = hybrid_fuzz::find("identify").expect("a target");
    (target.run)(data);
});
