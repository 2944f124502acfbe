//! Runs one guest: QEMU as a child, the guest's four lines, a deadline.
//!
//! QEMU connects to sockets that we opened before, so no byte is lost and nothing is retried. The
//! guest's first line (the kernel's) goes to a log; the second and third are the command's output
//! and errors; the fourth carries requests of the guest's script `host`, which are answered here.
//!
//! QEMU ends with us: `setpriv` has the kernel kill it when the thread that started it ends, and
//! ^C reaches it because it stays in our process group.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::crash::Crash;
use super::drive;
use super::hold;
use super::machine::{Files, Machine};
use super::qmp::Qmp;
use super::shell;

/// The program.
pub(crate) const PROGRAM: &str = "qemu-system-x86_64";

/// QEMU answers within milliseconds; a machine that is busy gets more.
const ANSWER: Duration = Duration::from_secs(30);

/// How often the button of a slot is pressed.
const PRESSES: u32 = 4;

/// A guest lets go of a drive some 6 s after its button was pressed.
const PATIENCE: Duration = Duration::from_secs(15);

/// Between two looks at a slot, and what a drive that left it gets to let go of its image.
const SETTLE: Duration = Duration::from_millis(250);

/// QEMU connects within milliseconds; a machine that is busy gets more.
const CONNECT: Duration = Duration::from_secs(30);

/// What the guest's script `host` may ask for.
const REQUESTS: &str = "exit, device_del, device_add, hold, release, qmp, notes";

/// The file of QEMU's own complaints.
const ERRORS: &str = "errors";

/// The serial lines after the kernel's. The usual ones share two interrupts, and an emulated edge
/// that two devices drive gets lost: each has its own here.
const LINES: [(&str, &str); 3] = [
    ("out", "iobase=0x2f8,irq=3,index=1"),
    ("err", "iobase=0x3e8,irq=5,index=2"),
    ("host", "iobase=0x2e8,irq=10,index=3"),
];

/// How often we look at the child and the clock.
const LOOK: Duration = Duration::from_millis(20);

/// Lines of the kernel's log that explain an end without an exit code.
const TAIL_LINES: usize = 15;

/// One guest to run.
pub(crate) struct Guest<'a> {
    pub(crate) name: &'a str,
    pub(crate) machine: &'a Machine,
    pub(crate) kernel: &'a Path,
    /// The archives of its file system.
    pub(crate) archives: &'a [&'a [u8]],
    /// Where its log goes.
    pub(crate) logs: &'a Path,
    /// Our programs on the host; empty where none were built.
    pub(crate) programs: &'a Path,
    pub(crate) limit: Duration,
    /// Whether standard input is the guest's.
    pub(crate) interactive: bool,
}

/// How the command ended, once the guest has said it.
type ExitCode = Mutex<Option<u8>>;

/// A folder that is removed with what is in it.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // A path in the temporary directory is short enough for a socket's name.
        let path = std::env::temp_dir().join(format!("xtask-vm-{}-{number}", std::process::id()));
        sweep();
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

/// Removes what runs left behind that were killed.
fn sweep() {
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix("xtask-vm-").and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Guest<'_> {
    /// The kernel's log.
    pub(crate) fn console(&self) -> PathBuf {
        self.logs.join(format!("vm-{}.console.log", self.name))
    }

    /// Runs it to its end and gives the exit code of its command.
    pub(crate) fn run(
        &self,
        out: &mut (dyn Write + Send),
        err: &mut (dyn Write + Send),
    ) -> Result<u8> {
        let start = Instant::now();
        let scratch = Scratch::new()?;
        let dir = &scratch.0;
        let initramfs = dir.join("initramfs");
        fs::write(&initramfs, self.archives.concat())?;
        let listeners = ["out", "err", "host", "qmp"].map(|line| (line, dir.join(line)));
        let bound = listeners.each_ref().map(|(_, path)| UnixListener::bind(path));
        let mut child = self.start(dir, &initramfs)?;
        let mut streams = Vec::new();
        for listener in bound {
            match accept(&listener.context("cannot open a socket")?, &mut child) {
                Ok(stream) => streams.push(stream),
                Err(error) => {
                    let _ = child.kill();
                    let crash = child.wait().ok().and_then(|status| self.crash(status, dir));
                    return Err(crash.map_or_else(|| error.context(errors_in(dir)), Into::into));
                }
            }
        }
        let mut streams = streams.into_iter();
        let mut next = || streams.next().context("four lines");
        let (from_out, from_err, host, qmp) = (next()?, next()?, next()?, next()?);
        let exit = Mutex::new(None);
        let leave = Arc::new(AtomicBool::new(false));
        let typed = from_out.try_clone()?;
        let ready = || {
            if let (true, Ok(to)) = (self.interactive, typed.try_clone()) {
                let leave = Arc::clone(&leave);
                // Not of the scope: a read of standard input ends with the process.
                thread::spawn(move || leave.store(shell::forward(to), Ordering::Relaxed));
            }
        };
        let ended = thread::scope(|scope| {
            scope.spawn(|| copy(from_out, out));
            scope.spawn(|| copy(from_err, err));
            scope.spawn(|| self.serve(dir, host, qmp, &exit, &ready));
            self.wait(&mut child, start, dir, &leave)
        });
        ended?;
        match exit.into_inner().unwrap_or(None) {
            Some(code) => Ok(code),
            None if leave.load(Ordering::Relaxed) => Ok(0),
            None => bail!("the guest ended without an exit code\n{}", self.tail()),
        }
    }

    fn start(&self, dir: &Path, initramfs: &Path) -> Result<Child> {
        let files = Files { kernel: self.kernel, initramfs, dir };
        let mut arguments = self.machine.arguments(&files)?;
        let console = self.console();
        arguments.extend(["-serial".to_owned(), format!("file:{}", console.display())]);
        for (line, place) in LINES {
            let path = dir.join(line).display().to_string();
            arguments.extend(["-chardev".to_owned(), format!("socket,id={line},path={path}")]);
            arguments.extend(["-device".to_owned(), format!("isa-serial,chardev={line},{place}")]);
        }
        let path = dir.join("qmp").display().to_string();
        arguments.extend(["-chardev".to_owned(), format!("socket,id=qmp,path={path}")]);
        arguments.extend(["-mon".to_owned(), "chardev=qmp,mode=control".to_owned()]);
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", PROGRAM]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(dir.join(ERRORS))?);
        command.spawn().context("cannot start setpriv, which is part of util-linux")
    }

    fn wait(
        &self,
        child: &mut Child,
        start: Instant,
        dir: &Path,
        leave: &AtomicBool,
    ) -> Result<()> {
        loop {
            if let Some(status) = child.try_wait()? {
                if status.success() {
                    return Ok(());
                }
                if let Some(crash) = self.crash(status, dir) {
                    return Err(crash.into());
                }
                let errors = errors_in(dir);
                let last = errors.lines().last().unwrap_or_default();
                bail!("{PROGRAM}: {status}: {last}\n{errors}\n{}", self.tail());
            }
            if leave.load(Ordering::Relaxed) {
                child.kill()?;
                child.wait()?;
                return Ok(());
            }
            if start.elapsed() >= self.limit {
                child.kill()?;
                child.wait()?;
                let seconds = self.limit.as_secs();
                bail!("the guest was killed after {seconds} s\n{}", self.tail());
            }
            thread::sleep(LOOK);
        }
    }

    /// Answers the guest's requests until it is gone.
    fn serve(
        &self,
        dir: &Path,
        host: UnixStream,
        qmp: UnixStream,
        exit: &ExitCode,
        ready: &dyn Fn(),
    ) -> Result<()> {
        qmp.set_read_timeout(Some(ANSWER))?;
        let mut qmp = Qmp::open(BufReader::new(qmp.try_clone()?), qmp)?;
        let mut answers = host.try_clone()?;
        for line in BufReader::new(host).lines() {
            let line = line?;
            if line.trim() == "ready" {
                ready();
            }
            let answer = match self.request(dir, &line, &mut qmp, exit) {
                Ok(text) => format!("ok {text}\n"),
                Err(error) => format!("error {error:#}\n").replace("\n ", " "),
            };
            answers.write_all(answer.as_bytes())?;
        }
        Ok(())
    }

    fn request<R: io::BufRead, W: Write>(
        &self,
        dir: &Path,
        line: &str,
        qmp: &mut Qmp<R, W>,
        exit: &ExitCode,
    ) -> Result<String> {
        let (verb, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        match verb {
            "ready" => Ok(String::new()),
            "exit" => {
                let code = rest.parse().with_context(|| format!("{rest:?} is no exit code"))?;
                if let Ok(mut exit) = exit.lock() {
                    *exit = exit.or(Some(code));
                }
                Ok(String::new())
            }
            "device_del" => unplug(rest, qmp),
            "hold" => hold::hold(rest, qmp),
            "release" => hold::release(rest, qmp),
            "device_add" => {
                let index = rest.strip_prefix("nvme").and_then(|index| index.parse().ok());
                let arguments = index.and_then(|index| self.machine.device_again(index));
                let arguments = arguments.with_context(|| format!("there is no drive {rest:?}"))?;
                qmp.execute(&json!({"execute": "device_add", "arguments": arguments}))?;
                Ok(format!("{rest} is there"))
            }
            "qmp" => {
                let command: Value = serde_json::from_str(rest).context("no JSON")?;
                Ok(qmp.execute(&command)?.to_string())
            }
            "notes" => self.look_at_notes(dir, rest),
            _ => bail!("request {verb:?}; allowed are {REQUESTS}"),
        }
    }

    /// Runs a program of ours on the notes of a drive's writes: `nvme3 PROGRAM ARGUMENTS…`, behind
    /// which the file is named. A copy of the notes stays beside the logs.
    fn look_at_notes(&self, dir: &Path, words: &str) -> Result<String> {
        let mut words = words.split_whitespace();
        let drive = words.next().and_then(|name| name.strip_prefix("nvme")?.parse().ok());
        let drive: usize = drive.context("a drive is named as in nvme3")?;
        let notes = drive::notes(dir, drive, 1);
        let kept = self.logs.join(format!("vm-{}.nvme{drive}.notes", self.name));
        fs::copy(&notes, &kept).with_context(|| format!("drive nvme{drive} has no notes"))?;
        let program = words.next().context("a program of ours has to be named")?;
        let output = Command::new(self.programs.join(program)).args(words).arg(&kept).output();
        let output = output.with_context(|| format!("cannot start {program}"))?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).trim().replace('\n', "; ");
        ensure!(output.status.success(), "{said} ({})", output.status);
        Ok(said)
    }

    fn crash(&self, status: ExitStatus, dir: &Path) -> Option<Crash> {
        Crash::of(status, &errors_in(dir), &self.tail())
    }

    fn tail(&self) -> String {
        let path = self.console();
        let text = fs::read(&path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let tail = crate::libtest::tail(text.trim_end(), TAIL_LINES);
        format!("---- last lines of {}\n{tail}", path.display())
    }
}

/// Presses the button of a drive's slot until the guest has let go of it. A press that comes while
/// the slot is busy with something else is lost, on real ports too.
///
/// Gone is what is in no slot. QEMU's event says that its memory is freed as well, and now and then
/// never comes: a controller that is pulled under load may keep a reference to itself.
fn unplug<R: io::BufRead, W: Write>(drive: &str, qmp: &mut Qmp<R, W>) -> Result<String> {
    let command = json!({"execute": "device_del", "arguments": {"id": drive}});
    let list = json!({"execute": "qom-list", "arguments": {"path": "/machine/peripheral"}});
    for press in 1..=PRESSES {
        match qmp.execute(&command) {
            Err(error) if press == 1 => return Err(error),
            // "already in the process of unplug": the wait goes on.
            _ => {}
        }
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            let devices = qmp.execute(&list)?;
            let devices = devices.as_array().context("QEMU lists no devices")?;
            if !devices.iter().any(|device| device["name"] == drive) {
                thread::sleep(SETTLE);
                return Ok(format!("{drive} is gone"));
            }
            thread::sleep(SETTLE);
        }
    }
    bail!("{drive} is still there after its button was pressed {PRESSES} times")
}

/// Waits until QEMU has connected, or has ended without.
fn accept(listener: &UnixListener, child: &mut Child) -> Result<UnixStream> {
    let start = Instant::now();
    listener.set_nonblocking(true)?;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        if let Some(status) = child.try_wait()? {
            bail!("{PROGRAM}: {status}");
        }
        if start.elapsed() >= CONNECT {
            bail!("{PROGRAM} did not connect within {} s", CONNECT.as_secs());
        }
        thread::sleep(LOOK);
    }
}

/// What QEMU wrote to its standard error.
fn errors_in(dir: &Path) -> String {
    let bytes = fs::read(dir.join(ERRORS)).unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim_end().to_owned()
}

/// Copies until the guest is gone, in the pieces in which the bytes come.
fn copy(mut from: UnixStream, to: &mut (dyn Write + Send)) {
    let mut buffer = [0_u8; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..count]).and_then(|()| to.flush()).is_err() {
            return;
        }
    }
}
