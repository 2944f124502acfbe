//! The kernel's work queues: unbound work goes to the housekeeping CPUs.

use crate::config::Config;
use crate::failure::Failure;
use crate::machine::Machine;
use crate::place::{Format, Place, State};
use crate::wish::{Wish, Wishes};

const FOLDER: &str = "/sys/devices/virtual/workqueue";

/// The mask of all, then that of each queue which has one.
pub(super) fn wishes(machine: &Machine, config: &Config) -> Result<Wishes, Failure> {
    let mut wishes = Wishes::default();
    if config.isolated.is_empty() {
        return Ok(wishes);
    }
    let queues = machine.root.list(FOLDER).unwrap_or_default().into_iter();
    let own = queues.map(|queue| format!("{FOLDER}/{queue}/cpumask"));
    for path in [format!("{FOLDER}/cpumask")].into_iter().chain(own) {
        if machine.root.exists(&path) {
            let wanted = State::text(config.housekeeping.kernel_mask().to_string());
            let place = Place::formatted(path, Format::Mask);
            wishes.push(Wish::new(place, wanted).may_refuse().off(config.isolated));
        }
    }
    Ok(wishes)
}
