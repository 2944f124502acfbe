//! Numbers in words: opcodes, statuses, signals, times. What is not known stays a number.

/// An opcode's name, as nvme-cli has it.
pub(crate) fn opcode(qid: u16, opcode: u8) -> String {
    let name = match (qid, opcode) {
        (0, 0x00) => "delete-sq",
        (0, 0x01) => "create-sq",
        (0, 0x02) => "get-log",
        (0, 0x04) => "delete-cq",
        (0, 0x05) => "create-cq",
        (0, 0x06) => "identify",
        (0, 0x08) => "abort",
        (0, 0x09) => "set-feature",
        (0, 0x0A) => "get-feature",
        (0, 0x0C) => "async-event",
        (0, 0x7C) => "dbbuf-config",
        (1.., 0x00) => "flush",
        (1.., 0x01) => "write",
        (1.., 0x02) => "read",
        (1.., 0x04) => "write-uncor",
        (1.., 0x05) => "compare",
        (1.., 0x08) => "write-zeroes",
        (1.., 0x09) => "dsm",
        _ => return format!("opcode {opcode:#04x}"),
    };
    name.to_owned()
}

/// A status field without its phase tag: SC in bits 7:0, SCT in 10:8. NVMe Base 2.0, section 3.3.3.
pub(crate) fn status(status: u16) -> String {
    if status & 0x7FF == 0 {
        return "success".to_owned();
    }
    format!("sct {} sc {:#04x}", status >> 8 & 7, status & 0xFF)
}

/// A signal's name: those that end a partition.
pub(crate) fn signal(number: u32) -> String {
    let name = match number {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        10 => "SIGUSR1",
        11 => "SIGSEGV",
        12 => "SIGUSR2",
        15 => "SIGTERM",
        31 => "SIGSYS",
        _ => return format!("signal {number}"),
    };
    name.to_owned()
}

/// A partition's state, `hybrid_abi::event`.
pub(crate) fn state(word: u32) -> String {
    use hybrid_abi::event;
    let name = match word {
        0 => "unborn",
        event::STATE_STARTING => "starting",
        event::STATE_RUNNING => "running",
        event::STATE_STOPPING => "stopping",
        event::STATE_STOPPED => "stopped",
        event::STATE_FAILED => "failed",
        event::STATE_NEEDS_RESET => "needs reset",
        _ => return format!("unknown state {word}"),
    };
    name.to_owned()
}

/// Wall clock: `2026-11-26T00:12:13.123456Z`.
pub(crate) fn utc(unix_ns: u64) -> String {
    let (seconds, us) = (unix_ns / 1_000_000_000, unix_ns / 1_000 % 1_000_000);
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{us:06}Z")
}

/// Days since 1970-01-01 as year, month and day of the Gregorian calendar.
fn civil(mut days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    loop {
        let length = if leap(year) { 366 } else { 365 };
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let february = if leap(year) { 29 } else { 28 };
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

/// Bytes as hexadecimal digits, without the zero bytes at the end.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    bytes.iter().take(end).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(utc(951_782_400_000_000_000), "2000-02-29T00:00:00.000000Z");
        assert_eq!(utc(1_795_651_933_123_456_789), "2026-11-26T00:12:13.123456Z");
        assert!(utc(u64::MAX).starts_with("2554-07-21T"));
    }

    #[test]
    fn unknown_numbers_stay_numbers() {
        assert_eq!((opcode(1, 2), opcode(0, 2)), ("read".to_owned(), "get-log".to_owned()));
        assert_eq!(opcode(1, 0xC0), "opcode 0xc0");
        assert_eq!((status(0), status(0x281)), ("success".to_owned(), "sct 2 sc 0x81".to_owned()));
        assert_eq!((signal(11), signal(40)), ("SIGSEGV".to_owned(), "signal 40".to_owned()));
        assert_eq!(hex(&[0xAB, 0, 1, 0, 0]), "ab0001");
    }
}
