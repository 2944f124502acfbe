//! What a partition's tasks are called, for who sees only their numbers.

use hybrid_abi::Name;
use hybrid_abi::crash::program::TASK_NAME_BYTES;
use hybrid_shm::ReadSpan;

/// The host's view of the part of kind
/// [`TASK_NAMES`](hybrid_abi::region::PartKind::TASK_NAMES). It believes nothing: a name is cut
/// where it stops being printable.
#[derive(Clone, Copy, Debug)]
pub struct TaskNames(ReadSpan<'static>);

impl TaskNames {
    /// Over a part of any length: who has no name there has none.
    #[must_use]
    pub const fn new(part: ReadSpan<'static>) -> Self {
        Self(part)
    }

    /// The name of the task with this number, from 1, as
    /// [`StateSnapshot::task`](super::state::StateSnapshot::task) has it. A place that was used
    /// again has the name of the task that is there now.
    #[must_use]
    pub fn get(&self, number: u32) -> Option<Name<TASK_NAME_BYTES>> {
        let place = number.checked_sub(1)? as usize;
        let mut bytes = [0; TASK_NAME_BYTES];
        self.0.read(place.checked_mul(TASK_NAME_BYTES)?, &mut bytes).ok()?;
        let name = core::str::from_utf8(&bytes).map_or("", |text| text.trim_end_matches('\0'));
        let name = Name::lossy(name);
        (name != Name::EMPTY).then_some(name)
    }
}
