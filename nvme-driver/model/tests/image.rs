//! Namespaces in image files.

mod host;

use host::{Host, PAGE, byte};
use nvme_model::{Backing, Model, ModelConfig, ModelError, NamespaceConfig};
use nvme_spec::registers::Shn;
use nvme_spec::{NvmOpcode, StatusCode};
use std::path::PathBuf;

/// A path in the directory for temporary files that no other test uses; removed at the end.
struct Temp(PathBuf);

impl Temp {
    fn new(name: &str) -> Self {
        let name = format!("nvme-model-{name}-{}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        // It may never have been made.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn create(temp: &Temp, blocks: u64) -> ModelConfig {
    let mut namespace = NamespaceConfig::memory(1, blocks);
    namespace.backing = Backing::Image { path: temp.0.clone(), create: true };
    ModelConfig { namespaces: vec![namespace], mdts: 0, ..ModelConfig::default() }
}

fn open(temp: &Temp) -> ModelConfig {
    let namespaces = vec![NamespaceConfig::image(1, temp.0.clone())];
    ModelConfig { namespaces, mdts: 0, ..ModelConfig::default() }
}

#[test]
fn what_was_written_is_there_after_a_restart() {
    let temp = Temp::new("restart");
    // 100 pages: longer than the bounce buffer, and a list.
    let (pages, list_pages) = (100, 1);
    let data: Vec<u8> = (0..pages * PAGE).map(|at| byte(at / 7)).collect();
    let mut host = Host::on(create(&temp, 256));
    let transfer = |host: &mut Host, op| {
        let mut pair = host.pair(1, 8);
        let (at, list) = (host.alloc(pages * PAGE), host.alloc(list_pages * PAGE));
        if op == NvmOpcode::WRITE {
            host.put(at, &data);
        }
        for page in 1..pages {
            host.put(list + (page - 1) * 8, &Host::iova(at + page * PAGE).to_le_bytes());
        }
        let blocks = u32::try_from(pages).expect("small");
        let sqe = host.io(op, 1, 5, blocks, Host::iova(at), Host::iova(list));
        assert!(host.run(&mut pair, sqe).status().is_success());
        host.bytes(at, pages * PAGE)
    };
    transfer(&mut host, NvmOpcode::WRITE);
    host.shut_down(Shn::Normal);
    host.model.assert_no_mistakes();
    drop(host);
    assert_eq!(std::fs::metadata(&temp.0).expect("there").len(), 256 * 4096);
    let mut host = Host::on(open(&temp));
    assert!(transfer(&mut host, NvmOpcode::READ) == data);
    host.model.assert_no_mistakes();
}

#[test]
fn zeroing_and_comparing_reach_the_file() {
    let temp = Temp::new("zero");
    let mut host = Host::on(create(&temp, 64));
    let mut pair = host.pair(1, 8);
    let at = host.alloc(PAGE);
    host.put(at, &[0x5a; PAGE]);
    let mut run = |host: &mut Host, op, slba| {
        let sqe = host.io(op, 1, slba, 1, Host::iova(at), 0);
        host.run(&mut pair, sqe).status().code()
    };
    assert_eq!(run(&mut host, NvmOpcode::WRITE, 3), StatusCode::SUCCESS);
    assert_eq!(run(&mut host, NvmOpcode::COMPARE, 3), StatusCode::SUCCESS);
    assert_eq!(run(&mut host, NvmOpcode::WRITE_ZEROES, 3), StatusCode::SUCCESS);
    assert_eq!(run(&mut host, NvmOpcode::COMPARE, 3), StatusCode::COMPARE_FAILURE);
    assert_eq!(run(&mut host, NvmOpcode::FLUSH, 0), StatusCode::SUCCESS);
    let file = std::fs::read(&temp.0).expect("there");
    assert!(file.iter().all(|byte| *byte == 0));
}

#[test]
fn a_new_image_is_its_users_alone() {
    use std::os::unix::fs::PermissionsExt;
    let temp = Temp::new("private");
    let model = Model::new(create(&temp, 8));
    assert!(model.is_ok());
    let mode = std::fs::metadata(&temp.0).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn an_image_that_shrinks_fails_reads_with_a_media_error() {
    let temp = Temp::new("shrink");
    let mut host = Host::on(create(&temp, 64));
    let mut pair = host.pair(1, 8);
    let at = host.alloc(PAGE);
    let file = std::fs::OpenOptions::new().write(true).open(&temp.0).expect("there");
    file.set_len(4096).expect("shrunk");
    let sqe = host.io(NvmOpcode::READ, 1, 1, 1, Host::iova(at), 0);
    let status = host.run(&mut pair, sqe).status();
    assert_eq!(status.code(), StatusCode::UNRECOVERED_READ_ERROR);
    assert!(!status.dnr());
    let sqe = host.io(NvmOpcode::READ, 1, 0, 1, Host::iova(at), 0);
    assert!(host.run(&mut pair, sqe).status().is_success());
}

#[test]
fn images_that_cannot_be_used_are_named() {
    let temp = Temp::new("missing");
    let error = Model::new(open(&temp)).expect_err("not there");
    assert!(matches!(&error, ModelError::Image { .. }));
    assert!(error.to_string().contains("missing"), "{error}");
    std::fs::write(&temp.0, [0; 4096]).expect("written");
    let error = Model::new(create(&temp, 2)).expect_err("too small");
    assert!(matches!(error, ModelError::ImageTooSmall { need: 8192, have: 4096, .. }));
    std::fs::write(&temp.0, []).expect("written");
    let error = Model::new(open(&temp)).expect_err("empty");
    assert!(matches!(error, ModelError::ImageTooSmall { have: 0, .. }));
}

#[test]
fn configurations_out_of_range_are_named() {
    let refused = |change: fn(&mut ModelConfig)| {
        let mut config = host::config();
        change(&mut config);
        Model::new(config).expect_err("refused").to_string()
    };
    let text = refused(|config| config.max_queue_entries = 65_537);
    assert_eq!(text, "max_queue_entries is 65537, allowed are 1 to 65536");
    let text = refused(|config| config.namespaces[0].lba_bytes = 520);
    assert_eq!(text, "lba_bytes is 520, allowed are powers of two from 512 to 65536");
    assert_eq!(
        refused(|config| config.namespaces[0].nsid = 3),
        "namespace id 3 is reserved or given twice"
    );
    assert!(refused(|config| config.namespaces[0].nsid = 0).contains("id 0"));
    assert!(refused(|config| config.namespaces[0].blocks = u64::MAX).contains("cannot be held"));
    assert!(refused(|config| config.namespaces[0].blocks = 0).contains("cannot be held"));
    assert!(refused(|config| config.dstrd = 13).contains("dstrd"));
    assert!(refused(|config| config.burst = 0).contains("burst"));
}
