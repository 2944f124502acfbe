//! The target `mold` of `hybrid_fuzz` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let target = hybrid_fuzz::find("mold").expect("a target");
    (target.run)(data);
});
