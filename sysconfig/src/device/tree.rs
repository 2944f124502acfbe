//! What the device code needs of the machine: a few files, links, device nodes and time.
//!
//! [`Root`] is the real one, or a prepared folder. The tests' kernel answers writes as Linux does.

use std::io;
use std::time::Duration;

use super::signature::ReadAt;
use crate::root::Root;

/// The machine as far as devices go. Paths are absolute.
pub(crate) trait Tree {
    /// A file's text.
    fn read(&self, path: &str) -> io::Result<String>;
    /// Writes to a file that is there.
    fn write(&self, path: &str, text: &str) -> io::Result<()>;
    /// Names in a folder.
    fn list(&self, path: &str) -> io::Result<Vec<String>>;
    /// What a link names.
    fn link(&self, path: &str) -> Option<String>;
    /// The last part of what a link names.
    fn link_name(&self, path: &str) -> Option<String> {
        Some(self.link(path)?.rsplit('/').next()?.to_owned())
    }
    /// Whether something is there.
    fn exists(&self, path: &str) -> bool;
    /// Opens a block device to be read; `exclusive` fails with EBUSY where the kernel uses it.
    fn open(&self, path: &str, exclusive: bool) -> io::Result<Box<dyn ReadAt>>;
    /// Runs a program of the system (an absolute path); whether it said yes.
    fn run(&self, program: &str, args: &[&str]) -> bool;
    /// Lets a group read and write a device node.
    fn give_to_group(&self, path: &str, gid: u32) -> io::Result<()>;
    /// Lets time pass.
    fn pause(&self, time: Duration);
}

impl Tree for Root {
    fn read(&self, path: &str) -> io::Result<String> {
        Root::read(self, path)
    }

    fn write(&self, path: &str, text: &str) -> io::Result<()> {
        Root::write(self, path, text)
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        Root::list(self, path)
    }

    fn link(&self, path: &str) -> Option<String> {
        Root::link(self, path).ok()?.into_os_string().into_string().ok()
    }

    fn exists(&self, path: &str) -> bool {
        Root::exists(self, path)
    }

    fn open(&self, path: &str, exclusive: bool) -> io::Result<Box<dyn ReadAt>> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let flags = if exclusive { libc::O_EXCL } else { 0 };
        let mut options = std::fs::OpenOptions::new();
        options.read(true).custom_flags(flags | libc::O_NONBLOCK);
        Ok(Box::new(options.open(self.path(path))?))
    }

    fn run(&self, program: &str, args: &[&str]) -> bool {
        // A prepared tree has no kernel that a program could change.
        if self.path("/") != std::path::Path::new("/") {
            return false;
        }
        let run = std::process::Command::new(program).args(args).output();
        run.is_ok_and(|output| output.status.success())
    }

    fn give_to_group(&self, path: &str, gid: u32) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.path(path);
        std::os::unix::fs::chown(&path, None, Some(gid))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660))
    }

    fn pause(&self, time: Duration) {
        std::thread::sleep(time);
    }
}
