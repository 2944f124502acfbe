//! Storage of this machine: files with and without O_DIRECT, and what is none.

use std::fs;

use hybrid_conventions::Exit;

use super::*;
use crate::testing::TempDir;

fn file(dir: &TempDir, bytes: u64) -> TargetWish {
    let path = dir.path().join("day.img");
    fs::File::create(&path).and_then(|file| file.set_len(bytes)).expect("a file");
    TargetWish::new(path)
}

#[test]
fn a_file_has_blocks_of_4_kib_and_limits_that_were_asked_for() {
    let dir = TempDir::new("target");
    let target = Target::open(&file(&dir, 1 << 20)).expect("a file");
    let limits = target.limits();
    assert_eq!((limits.lba_bytes, limits.blocks), (4096, 256));
    assert!(limits.write_cache && target.writable() && !target.shrank());
    match target.way() {
        Way::Direct => assert!(limits.buffer_align.is_power_of_two() && target.steps.is_empty()),
        Way::Buffered => {
            assert!(target.steps[0].contains("without O_DIRECT"), "{:?}", target.steps)
        }
        way => panic!("a file by {way}"),
    }
}

#[test]
fn a_file_that_shrinks_is_noticed() {
    let dir = TempDir::new("target-shrinks");
    let wish = file(&dir, 1 << 20);
    let target = Target::open(&wish).expect("a file");
    fs::OpenOptions::new().write(true).open(&wish.path).and_then(|f| f.set_len(4096)).expect("cut");
    assert!(target.shrank());
}

#[test]
fn without_o_direct_it_is_asked_for_or_a_visible_step() {
    let dir = TempDir::new("target-buffered");
    let wish = TargetWish { direct: false, iopoll: true, ..file(&dir, 8192) };
    let target = Target::open(&wish).expect("a file");
    assert_eq!(target.way(), Way::Buffered);
    assert!(!target.limits().iopoll);
    assert_eq!(target.steps.len(), 1, "the polling alone was wanted: {:?}", target.steps);
    assert!(target.steps[0].contains("without IOPOLL"));
    // Offsets in larger units than blocks: no O_DIRECT for this file, and a line says so.
    let wish = TargetWish { lba_bytes: 512, ..file(&dir, 8192) };
    let target = Target::open(&wish).expect("a file");
    assert_eq!(target.way() == Way::Direct, target.steps.is_empty());
}

#[test]
fn a_filesystem_that_has_no_o_direct_is_a_line_with_its_words_and_a_fix() {
    // A file of a page that every Linux has, on a filesystem without.
    let path = ["/sys/kernel/mm/transparent_hugepage/enabled", "/sys/kernel/mm/ksm/run"]
        .into_iter()
        .find(|path| fs::metadata(path).is_ok_and(|meta| meta.len() == 4096));
    let Some(path) = path else {
        let test = "a_filesystem_that_has_no_o_direct_is_a_line_with_its_words_and_a_fix";
        return hybrid_conventions::testing::skipped(test, "sysfs has not these files");
    };
    let target = Target::open(&TargetWish { write: false, ..TargetWish::new(path) })
        .expect("the page cache");
    assert_eq!(target.way(), Way::Buffered);
    let [line] = &target.steps[..] else { panic!("{:?}", target.steps) };
    for words in [path, "without O_DIRECT", "refuses it", "ext4, xfs"] {
        assert!(line.contains(words), "{line}");
    }
}

#[test]
fn sizes_that_are_no_blocks_are_refused_with_both_numbers() {
    let dir = TempDir::new("target-size");
    for bytes in [0, 100, 4097] {
        let error = Target::open(&file(&dir, bytes)).expect_err("no blocks");
        assert!(error.to_string().contains(&format!("has {bytes} bytes")), "{error}");
        assert_eq!(error.exit(), Exit::Error);
    }
    let target = Target::open(&file(&dir, 4096 + 512)).expect("blocks of 512");
    assert_eq!(target.limits().lba_bytes, 512);
    let wish = TargetWish { lba_bytes: 4096, ..file(&dir, 4096 + 512) };
    assert!(matches!(Target::open(&wish), Err(UringError::Size { lba_bytes: 4096, .. })));
}

#[test]
fn a_file_is_made_where_that_is_asked_for() {
    let dir = TempDir::new("target-made");
    let path = dir.path().join("new.img");
    let wish = TargetWish::new(&path);
    let error = Target::open(&wish).expect_err("not there");
    assert!(error.to_string().contains("is not there; make it: truncate"), "{error}");
    assert_eq!(error.exit(), Exit::Missing);
    let wish = TargetWish { create_bytes: Some(64 << 10), ..wish };
    assert_eq!(Target::open(&wish).expect("made").limits().blocks, 16);
    assert_eq!(fs::metadata(&path).expect("there").len(), 64 << 10);
}

#[test]
fn what_is_no_storage_is_named() {
    for (path, kind) in [("/tmp", "a directory"), ("/dev/null", "a character device")] {
        let error = Target::open(&TargetWish::new(path)).expect_err("no storage");
        assert!(error.to_string().contains(kind), "{error}");
    }
    let wish = TargetWish { passthrough: true, ..TargetWish::new("/dev/null") };
    let error = Target::open(&wish).expect_err("no nvme");
    assert!(error.to_string().contains("asking for its namespace"), "{error}");
    let wish = TargetWish { passthrough: true, ..TargetWish::new("/dev/ng99n1") };
    let error = Target::open(&wish).expect_err("not there");
    assert_eq!(error.exit(), Exit::Missing);
}

#[test]
fn a_file_for_reading_offers_nothing_that_writes() {
    let dir = TempDir::new("target-read");
    let wish = TargetWish { write: false, ..file(&dir, 8192) };
    let target = Target::open(&wish).expect("a file");
    let limits = target.limits();
    assert!(!target.writable() && limits.zeroes.is_none() && limits.discard.is_none());
}
