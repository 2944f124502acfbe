//! Making a socket that only its owner may use.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// A listener with mode 0600. A socket that nobody listens to any more is replaced; anything else
/// that has the name stays, and is an error.
///
/// # Errors
/// The system's; `AddrInUse` if somebody listens there, or if it is no socket.
pub(crate) fn bind_private(path: &Path) -> io::Result<UnixListener> {
    if let Ok(there) = fs::symlink_metadata(path) {
        let stale = there.file_type().is_socket()
            && UnixStream::connect(path)
                .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
        if !stale {
            return Err(ErrorKind::AddrInUse.into());
        }
        fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn a_stale_socket_is_replaced_and_anything_else_is_left_alone() {
        let dir = TempDir::new("sockets");
        let path = dir.path().join("a.sock");
        let first = bind_private(&path).expect("a socket");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let taken = bind_private(&path).expect_err("somebody listens");
        assert_eq!(taken.kind(), ErrorKind::AddrInUse);
        drop(first);
        bind_private(&path).expect("nobody listens any more");
        dir.write("file", "mine");
        bind_private(&dir.path().join("file")).expect_err("a file");
        assert_eq!(fs::read_to_string(dir.path().join("file")).expect("there"), "mine");
    }
}
