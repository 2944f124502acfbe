//! The journal under QEMU's block log, without a guest: the storage daemon exports an image as a
//! file, over FUSE, and its `blklogwrites` notes each write and flush that comes. The model's image
//! is that file, or io_uring drives it; `journal-drill` goes through the crashes that the notes
//! tell of.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use hybrid_conventions::testing;

const DAEMON: &str = "qemu-storage-daemon";
const IMAGE_BYTES: u64 = 4 << 20;
/// A machine that is busy with others starts a daemon late.
const LIMIT: Duration = Duration::from_secs(60);

/// A folder that goes with the value; in memory where there is such a place.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let path = base.join(format!("hybrid-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn file(&self, name: &str, bytes: u64) -> PathBuf {
        let path = self.0.join(name);
        File::create(&path).and_then(|file| file.set_len(bytes)).expect("a file");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The daemon; its export goes when it does.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

/// Exports an image whose writes are noted in `notes`; `Err` says what is missing.
fn export(folder: &Folder, notes: &Path) -> Result<(Daemon, PathBuf), String> {
    let (image, mount) = (folder.file("data", IMAGE_BYTES), folder.file("export", 0));
    let node = |name: &str, words: String| format!("{words},node-name={name}");
    let file = |path: &Path| format!("driver=file,filename={}", path.display());
    let (said, errors) = (folder.0.join("said"), folder.0.join("errors"));
    let daemon = Command::new(DAEMON)
        .args([
            "--blockdev",
            &node("data", file(&image)),
            "--blockdev",
            &node("notes", file(notes)),
        ])
        .args(["--blockdev", &node("noted", "driver=blklogwrites,file=data,log=notes".to_owned())])
        .arg("--export")
        .arg(format!("type=fuse,id=e,node-name=noted,writable=on,mountpoint={}", mount.display()))
        .stdin(Stdio::null())
        .stdout(File::create(said).expect("a file"))
        .stderr(File::create(&errors).expect("a file"))
        .spawn();
    let mut daemon = match daemon {
        Ok(child) => Daemon(child),
        Err(_) => return Err(format!("{DAEMON} is not there: apt-get install qemu-system-common")),
    };
    let begun = Instant::now();
    while fs::metadata(&mount).map_or(0, |is| is.len()) != IMAGE_BYTES {
        if daemon.0.try_wait().expect("a child").is_some() {
            let errors = fs::read_to_string(errors).unwrap_or_default();
            return Err(format!("{DAEMON} exports nothing over FUSE: {}", errors.trim()));
        }
        assert!(begun.elapsed() < LIMIT, "the export does not come");
        std::thread::yield_now();
    }
    Ok((daemon, mount))
}

fn drill(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_journal-drill")).args(args).output().expect("it starts")
}

#[track_caller]
fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{text}");
    text
}

/// Drives a log on the export, by the way that `device` is, and goes through the crashes.
fn crashes(test: &str, device: &str, (records, points): (u64, u64)) {
    if std::thread::available_parallelism().map_or(1, std::num::NonZero::get) < 2 {
        return testing::skipped(test, "it needs two CPUs");
    }
    let folder = Folder::new(device);
    let notes = folder.file("notes", 0);
    let (daemon, export) = match export(&folder, &notes) {
        Ok(both) => both,
        Err(reason) => return testing::skipped(test, &reason),
    };
    let seed = testing::seed(11).to_string();
    let (records, points) = (records.to_string(), points.to_string());
    let device = format!("{device}:{}", export.display());
    let drive = ["drive", "--device", &device, "--allow-writes", "--seed", &seed];
    print!("{}", said(&drill(&[&drive[..], &["--records", &records]].concat())));
    drop(daemon);
    let notes = notes.to_str().expect("text");
    let text = said(&drill(&["replay", "--seed", &seed, "--points", &points, notes]));
    print!("{text}");
    assert!(text.contains("all acknowledged records are there and nothing else"), "{text}");
    // Notes that say that more was acknowledged than is there: who goes through them sees it.
    let mut bytes = fs::read(notes).expect("the notes");
    let mark = bytes.windows(8).position(|word| word == b"HYJDMARK").expect("a mark");
    bytes[mark + 8..mark + 16].copy_from_slice(&100_u64.to_le_bytes());
    fs::write(notes, bytes).expect("written");
    let lies = drill(&["replay", "--seed", &seed, "--points", "100", notes]);
    assert_eq!(lies.status.code(), Some(1));
    let text = String::from_utf8_lossy(&lies.stderr).into_owned();
    assert!(text.contains("records of 100 that were acknowledged"), "{text}");
}

/// Records, and crashes: of the latter 0 is all.
fn sizes() -> (u64, u64) {
    if testing::soak() { (40_000, 0) } else { (3_000, 3_000) }
}

#[test]
fn after_every_crash_that_the_block_log_tells_of_our_driver_has_what_was_acknowledged() {
    let name = "after_every_crash_that_the_block_log_tells_of_our_driver_has_what_was_acknowledged";
    crashes(name, "model", sizes());
}

#[test]
fn after_every_crash_that_the_block_log_tells_of_io_uring_has_what_was_acknowledged() {
    let name = "after_every_crash_that_the_block_log_tells_of_io_uring_has_what_was_acknowledged";
    crashes(name, "uring", sizes());
}
