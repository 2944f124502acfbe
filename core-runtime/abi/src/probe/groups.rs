//! Groups and levels: which probes are on.
//!
//! A probe belongs to a group and has a level. A mask of 64 bits holds four levels for each of 16
//! groups; a group that is on at a level has the bits of the levels below it set too.

/// What a probe is about. The numbers are part of every trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Group(pub u8);

/// How much a probe's events tell, and how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Level(pub u8);

impl Group {
    /// Marks of the trace itself: freezes and thaws.
    pub const TRACE: Self = Self(0);
    /// The scheduler: polls, wakes, overruns, stolen time.
    pub const SCHED: Self = Self(1);
    /// Timers.
    pub const TIMER: Self = Self(2);
    /// The NVMe driver: commands, doorbells, completions.
    pub const DRIVER: Self = Self(3);
    /// The bridge to the host's kernel, and the fallback to it.
    pub const BRIDGE: Self = Self(4);
    /// Rings to the host and between partitions.
    pub const RING: Self = Self(5);
    /// Deadlines, aborts, resets, the controller's life.
    pub const WATCHDOG: Self = Self(6);
    /// Stages of the feed handler.
    pub const FEED: Self = Self(7);
    /// The application's own.
    pub const APP: Self = Self(8);
    /// The journal.
    pub const JOURNAL: Self = Self(9);

    /// The name on the command line; `unknown` for a group of a newer writer.
    #[must_use]
    pub fn name(self) -> &'static str {
        GROUPS.iter().find(|(group, _)| *group == self).map_or("unknown", |(_, name)| name)
    }
}

/// All groups and their names, in the order of their numbers.
pub const GROUPS: [(Group, &str); 10] = [
    (Group::TRACE, "trace"),
    (Group::SCHED, "sched"),
    (Group::TIMER, "timer"),
    (Group::DRIVER, "driver"),
    (Group::BRIDGE, "bridge"),
    (Group::RING, "ring"),
    (Group::WATCHDOG, "watchdog"),
    (Group::FEED, "feed"),
    (Group::APP, "app"),
    (Group::JOURNAL, "journal"),
];

impl Level {
    /// Something went wrong; rare.
    pub const ERROR: Self = Self(0);
    /// Worth knowing; at most some thousands a second.
    pub const INFO: Self = Self(1);
    /// Each I/O and each poll.
    pub const DEBUG: Self = Self(2);
    /// More than one event for each I/O.
    pub const TRACE: Self = Self(3);

    /// The name on the command line; `unknown` for a level that does not exist.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ERROR => "error",
            Self::INFO => "info",
            Self::DEBUG => "debug",
            Self::TRACE => "trace",
            _ => "unknown",
        }
    }
}

/// The mask with everything on.
pub const MASK_ALL: u64 = u64::MAX;

/// The mask's bit of a group's level.
#[must_use]
pub const fn bit_of(group: Group, level: Level) -> u64 {
    1 << ((group.0 as u32 & 15) * 4 + (level.0 as u32 & 3))
}

/// The bits of a group up to a level.
#[must_use]
pub const fn bits_up_to(group: Group, level: Level) -> u64 {
    let levels = (2 << (level.0 as u64 & 3)) - 1;
    levels << ((group.0 as u32 & 15) * 4)
}

/// A word of a list of groups that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSuchGroup<'a>(pub &'a str);

impl core::fmt::Display for NoSuchGroup<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:?} is no group of probes; there are all, none", self.0)?;
        for (_, name) in GROUPS {
            write!(f, ", {name}")?;
        }
        f.write_str(", each with an optional :error, :info, :debug or :trace")
    }
}

impl core::error::Error for NoSuchGroup<'_> {}

/// A mask from the command line's words: `all`, `none`, `driver,sched`, `driver:info,feed`. A group
/// without a level is on at all of them. The marks of the trace itself are on unless nothing is.
///
/// # Errors
/// [`NoSuchGroup`] with the word that is none.
pub fn parse_groups(text: &str) -> Result<u64, NoSuchGroup<'_>> {
    let mut mask = 0;
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let (name, level) = word.split_once(':').unwrap_or((word, "trace"));
        let levels = [Level::ERROR, Level::INFO, Level::DEBUG, Level::TRACE];
        let level = levels.into_iter().find(|known| known.name() == level);
        let level = level.ok_or(NoSuchGroup(word))?;
        match name {
            "none" => {}
            "all" => {
                mask |= GROUPS.iter().fold(0, |all, (group, _)| all | bits_up_to(*group, level))
            }
            _ => {
                let known = GROUPS.iter().find(|(_, known)| *known == name);
                let (group, _) = known.ok_or(NoSuchGroup(word))?;
                mask |= bits_up_to(*group, level);
            }
        }
    }
    if mask != 0 {
        mask |= bits_up_to(Group::TRACE, Level::TRACE);
    }
    Ok(mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_levels_have_bits_of_their_own() {
        let mut seen = 0_u64;
        for (group, name) in GROUPS {
            assert_eq!(group.name(), name);
            for level in 0..4 {
                let bit = bit_of(group, Level(level));
                assert_eq!(seen & bit, 0);
                seen |= bit;
                assert_eq!(bits_up_to(group, Level(level)) & bit, bit);
            }
            assert_eq!(bits_up_to(group, Level::TRACE).count_ones(), 4);
        }
        assert_eq!(Group(15).name(), "unknown");
        assert_eq!(bits_up_to(Group(15), Level::TRACE), 15 << 60);
    }

    #[test]
    fn lists_are_read_as_they_are_meant() {
        let trace = bits_up_to(Group::TRACE, Level::TRACE);
        assert_eq!(parse_groups("none"), Ok(0));
        assert_eq!(parse_groups(""), Ok(0));
        assert_eq!(parse_groups("all").map(u64::count_ones), Ok(40));
        assert_eq!(parse_groups("all:error").map(u64::count_ones), Ok(9 + 4));
        let driver = bits_up_to(Group::DRIVER, Level::INFO);
        assert_eq!(parse_groups("driver:info"), Ok(driver | trace));
        let feed = bits_up_to(Group::FEED, Level::TRACE);
        assert_eq!(parse_groups(" driver:info, feed"), Ok(driver | feed | trace));
        assert!(parse_groups("nvme").unwrap_err().to_string().starts_with("\"nvme\" is no group"));
        assert!(parse_groups("driver:loud").is_err());
    }
}
