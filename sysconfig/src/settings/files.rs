//! Files that `apply` writes whole, with the folders above them, and the drop-in of the flags.

use crate::config::{Config, file};
use crate::failure::Failure;
use crate::journal::Hook;
use crate::machine::Machine;
use crate::place::{Place, State};
use crate::wish::{Wish, Wishes};

/// Wishes for a file of root's, and for the folders between `/etc/x` and it.
pub(super) fn file(wishes: &mut Wishes, path: &str, text: String, hook: Option<Hook>) {
    folders(wishes, path);
    let mut wish = Wish::new(Place::file(path), State::file(text));
    wish.hook = hook;
    wishes.push(wish);
}

/// The folders above a file, from the second level on: `/etc` itself is there.
pub(super) fn folders(wishes: &mut Wishes, path: &str) {
    for (at, _) in path.match_indices('/').skip(2) {
        let place = Place::Dir { path: path[..at].to_owned() };
        if wishes.list.iter().all(|wish| wish.place != place) {
            wishes.push(Wish::new(place, State::Folder { mode: 0o755, uid: 0, gid: 0 }));
        }
    }
}

/// The flags of this run, or those of a former one as they are.
pub(super) fn kept(machine: &Machine, config: &Config) -> Result<Wishes, Failure> {
    let mut wishes = Wishes::default();
    let before = || machine.root.read(file::KEPT).ok();
    if let Some(text) = config.kept.clone().or_else(before) {
        file(&mut wishes, file::KEPT, text, None);
    }
    Ok(wishes)
}
