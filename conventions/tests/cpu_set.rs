//! CPU sets against a set of the standard library, and every spelling against a table.

use std::collections::BTreeSet;

use hybrid_conventions::{CpuSet, CpuSetError};
use proptest::prelude::*;

fn set(cpus: &[u32]) -> CpuSet {
    let mut set = CpuSet::EMPTY;
    for &cpu in cpus {
        set.insert(cpu).expect("in range");
    }
    set
}

#[test]
fn every_spelling_gives_the_same_set() {
    for (text, cpus) in [
        ("", &[][..]),
        ("\n", &[]),
        ("[]", &[]),
        ("0x0", &[]),
        ("0", &[0]),
        ("2-5,8", &[2, 3, 4, 5, 8]),
        ("[2,3,4,5,8]", &[2, 3, 4, 5, 8]),
        ("[2-5, 8]", &[2, 3, 4, 5, 8]),
        ("0x13c", &[2, 3, 4, 5, 8]),
        ("0X13C", &[2, 3, 4, 5, 8]),
        ("[2,3]", &[2, 3]),
        ("0x3c", &[2, 3, 4, 5]),
        ("8, 2-3 ,2\n", &[2, 3, 8]),
        ("3-3", &[3]),
        ("0-10:4", &[0, 4, 8]),
        ("0-15:2/8", &[0, 1, 8, 9]),
        ("1-3:1", &[1, 2, 3]),
        ("1023", &[1023]),
        ("62-65", &[62, 63, 64, 65]),
        ("0x3,00000001", &[0, 32, 33]),
        ("0x10000000000000000", &[64]),
    ] {
        assert_eq!(text.parse(), Ok(set(cpus)), "{text:?}");
    }
}

#[test]
fn refusals_say_what_was_seen_and_what_is_allowed() {
    for (text, message) in [
        ("a", "cpu set \"a\" is not understood; write it as 2-5,8 or [2,3] or 0x3c"),
        ("5-2", "cpu range 5-2 runs backwards; the smaller number comes first"),
        ("1024", "cpu 1024 is out of range; cpus are numbered 0 to 1023"),
        ("0-4294967295", "cpu 4294967295 is out of range; cpus are numbered 0 to 1023"),
        (
            "99999999999999999999",
            "cpu 18446744073709551615 is out of range; cpus are numbered 0 to 1023",
        ),
    ] {
        let error = text.parse::<CpuSet>().expect_err(text);
        assert_eq!(error.to_string(), message);
    }
    for text in [
        ",",
        "1,",
        ",1",
        "1,,2",
        "-",
        "1-",
        "-1",
        "1--2",
        "1-2-3",
        "[1",
        "1]",
        "[[1]]",
        "0x",
        "0xg",
        "0x1,2",
        "0x,00000001",
        "0x1,",
        "1 2",
        "+1",
        "1:2",
        "0-3:0",
        "0-3:",
        "0-3:3/2",
        "0-3:1/0",
        "all",
        "١",
    ] {
        let error = text.parse::<CpuSet>().expect_err(text);
        assert!(matches!(error, CpuSetError::Syntax(_)), "{text:?}: {error}");
    }
}

#[test]
fn a_mask_beyond_the_capacity_is_refused_unless_its_high_digits_are_zero() {
    let digits = CpuSet::CAPACITY / 4;
    let too_long = format!("0x1{}", "0".repeat(digits));
    assert_eq!(too_long.parse::<CpuSet>(), Err(CpuSetError::OutOfRange(1024)));
    let padded = format!("0x{}1", "0".repeat(digits * 2));
    assert_eq!(padded.parse(), Ok(set(&[0])));
    let full = format!("0x{}", "f".repeat(digits));
    assert_eq!(full.parse(), Ok(CpuSet::first_n(CpuSet::CAPACITY)));
}

#[test]
fn sets_print_as_list_as_brackets_and_as_masks() {
    for (cpus, list, brackets, mask, kernel) in [
        (&[][..], "", "[]", "0x0", "0"),
        (&[0], "0", "[0]", "0x1", "1"),
        (&[2, 3, 4, 5, 8], "2-5,8", "[2,3,4,5,8]", "0x13c", "13c"),
        (&[2, 3], "2-3", "[2,3]", "0xc", "c"),
        (&[32], "32", "[32]", "0x100000000", "1,00000000"),
        (&[0, 64], "0,64", "[0,64]", "0x10000000000000001", "1,00000000,00000001"),
        (
            &[31, 32, 63, 64, 96],
            "31-32,63-64,96",
            "[31,32,63,64,96]",
            "0x1000000018000000180000000",
            "1,00000001,80000001,80000000",
        ),
    ] {
        let set = set(cpus);
        assert_eq!(set.to_string(), list);
        assert_eq!(format!("{set:#}"), brackets);
        assert_eq!(format!("{set:#x}"), mask);
        assert_eq!(format!("0x{set:x}"), mask);
        assert_eq!(set.kernel_mask().to_string(), kernel);
        assert_eq!(CpuSet::parse_mask(kernel), Ok(set));
    }
    assert_eq!(format!("{:?}", set(&[1, 2])), "CpuSet(1-2)");
}

#[test]
fn the_edges_of_the_capacity_hold() {
    let mut set = CpuSet::EMPTY;
    assert_eq!(set.insert(1023), Ok(true));
    assert_eq!(set.insert(1023), Ok(false));
    assert_eq!(set.insert(1024), Err(CpuSetError::OutOfRange(1024)));
    assert_eq!(set.insert(u32::MAX), Err(CpuSetError::OutOfRange(u32::MAX.into())));
    assert!(set.contains(1023) && !set.contains(1024) && !set.contains(u32::MAX));
    assert!(!set.remove(1024) && set.remove(1023) && !set.remove(1023));
    assert!(set.is_empty());
    assert_eq!(CpuSet::single(5).map(|set| set.first()), Ok(Some(5)));
    assert_eq!(CpuSet::single(5000), Err(CpuSetError::OutOfRange(5000)));
}

#[test]
fn the_first_n_cpus_are_exactly_those() {
    for count in 0..=CpuSet::CAPACITY + 2 {
        let set = CpuSet::first_n(count);
        let expected = count.min(CpuSet::CAPACITY);
        assert_eq!(set.len(), expected);
        assert!(set.iter().eq(0..u32::try_from(expected).expect("small")));
    }
}

#[test]
fn the_complement_of_the_isolated_cores_is_the_housekeeping() {
    let online = CpuSet::first_n(8);
    let isolated: CpuSet = "2-5".parse().expect("a list");
    assert_eq!(isolated.complement(online).to_string(), "0-1,6-7");
    assert!(isolated.is_subset(&online));
    assert!(!online.is_subset(&isolated));
}

fn cpus() -> impl Strategy<Value = BTreeSet<u32>> {
    prop_oneof![
        proptest::collection::btree_set(0_u32..1024, 0..40),
        proptest::collection::btree_set(0_u32..70, 0..70),
    ]
}

fn from_model(model: &BTreeSet<u32>) -> CpuSet {
    set(&model.iter().copied().collect::<Vec<_>>())
}

proptest! {
    #[test]
    fn every_printed_form_parses_back(model in cpus()) {
        let set = from_model(&model);
        prop_assert_eq!(set.to_string().parse(), Ok(set));
        prop_assert_eq!(format!("{set:#}").parse(), Ok(set));
        prop_assert_eq!(format!("{set:#x}").parse(), Ok(set));
        prop_assert_eq!(CpuSet::parse_mask(&set.kernel_mask().to_string()), Ok(set));
    }

    #[test]
    fn set_algebra_is_that_of_a_set(a in cpus(), b in cpus()) {
        let (x, y) = (from_model(&a), from_model(&b));
        prop_assert!(x.union(y).iter().eq(a.union(&b).copied()));
        prop_assert!(x.intersection(y).iter().eq(a.intersection(&b).copied()));
        prop_assert!(x.difference(y).iter().eq(a.difference(&b).copied()));
        prop_assert_eq!(x.is_subset(&y), a.is_subset(&b));
        prop_assert_eq!(x.iter().len(), a.len());
        prop_assert_eq!(x.is_empty(), a.is_empty());
    }

    #[test]
    fn no_text_panics(text in "[-0-9a-fx,:/\\[\\] ]{0,24}|\\PC*") {
        let _ = text.parse::<CpuSet>();
        let _ = CpuSet::parse_mask(&text);
    }
}
