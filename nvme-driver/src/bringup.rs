//! The pure half of bring-up: from capabilities to a plan, and the time limits of its waits.
//!
//! [`crate::lifecycle`] acts on what is decided here. No register is touched in this file.

use nvme_spec::registers::{Aqa, Cap, Cc, Crto};

use crate::config::{ControllerConfig, MAX_PAGE_BYTES};
use crate::error::ControllerError;
use crate::quirks::{MIN_FAST_ENTRIES, Quirks};

/// Entries of the admin rings: bring-up needs one command at a time, events a few, aborts a few.
/// MQES does not bound them; AQA allows 4,096.
pub(crate) const ADMIN_ENTRIES: u16 = 32;

/// Slots of the admin queue for event requests, which stay for ever, and for the users' commands;
/// the rest, seven, is for what a reset, an abort and a log page of an event need.
pub(crate) const MAX_EVENT_REQUESTS: u8 = 8;
/// See [`MAX_EVENT_REQUESTS`].
pub(crate) const ADMIN_REQUESTS: u16 = 16;

const _: () = assert!(ADMIN_REQUESTS + (MAX_EVENT_REQUESTS as u16) + 7 < ADMIN_ENTRIES);
const _: () = assert!(ADMIN_ENTRIES as u32 <= Aqa::MAX_ENTRIES);

/// What bring-up will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Entries of each I/O ring, 2 to 4,096.
    pub entries: u16,
    /// Memory page in bytes (CC.MPS).
    pub page_bytes: u64,
    /// CC with everything but EN.
    pub cc: Cc,
}

/// Decides from CAP.
pub(crate) fn plan(
    cap: Cap,
    config: &ControllerConfig,
    quirks: Quirks,
) -> Result<Plan, ControllerError> {
    config.check().map_err(ControllerError::Config)?;
    if cap.mqes_z() == 0 {
        return Err(ControllerError::BadMqes);
    }
    let page_bytes = u64::from(cap.min_page_bytes());
    if page_bytes > MAX_PAGE_BYTES {
        return Err(ControllerError::PageSize { min_bytes: page_bytes, max_bytes: MAX_PAGE_BYTES });
    }
    // CAP.CSS of 0 occurs: assume the NVM command set then.
    let css = cap.css();
    if css != 0 && css & (Cap::CSS_NVM | Cap::CSS_IOCSS) == 0 {
        return Err(ControllerError::NoNvmCommandSet(css));
    }
    let cc_css = if css & Cap::CSS_NVM == 0 && css & Cap::CSS_IOCSS != 0 { 6 } else { 0 };
    // MQES may be FFFFh: one more does not fit 16 bits. A ring of N holds N - 1.
    let mut wanted = u32::from(config.queue_depth) + 1;
    if quirks.contains(Quirks::WIDE_QUEUE) {
        wanted = wanted.max(MIN_FAST_ENTRIES);
    }
    let entries = wanted.min(cap.max_queue_entries()).min(1 << 12);
    let cc = Cc::new()
        .with_css(cc_css)
        .with_mps(cap.mpsmin())
        .with_iosqes(Cc::IOSQES)
        .with_iocqes(Cc::IOCQES);
    Ok(Plan {
        entries: u16::try_from(entries).map_err(|_| ControllerError::BadMqes)?,
        page_bytes,
        cc,
    })
}

/// How long RDY may take to change: CAP.TO, or CRTO where CAP.CRMS says so, between floor and
/// ceiling. `crto` is `None` where it is not supported.
pub(crate) fn ready_limit_ns(cap: Cap, crto: Option<Crto>, config: &ControllerConfig) -> u64 {
    const UNIT_NS: u64 = 500_000_000;
    let to = u64::from(cap.to()) * UNIT_NS;
    // CRTO's field replaces TO, which may be too small for it (255 units at most).
    let limit = crto.map_or(to, |crto| to.max(u64::from(crto.crwmt()) * UNIT_NS));
    limit.max(config.ready_floor_ns).min(config.ready_ceiling_ns.max(config.ready_floor_ns))
}

/// How long a shutdown may take: RTD3E (microseconds), between floor and ceiling.
pub(crate) fn shutdown_limit_ns(rtd3e_us: u32, config: &ControllerConfig, quirks: Quirks) -> u64 {
    if quirks.contains(Quirks::NO_SHST) {
        return config.shutdown_floor_ns;
    }
    (u64::from(rtd3e_us) * 1_000)
        .max(config.shutdown_floor_ns)
        .min(config.shutdown_ceiling_ns.max(config.shutdown_floor_ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cap() -> Cap {
        Cap::new().with_mqes_z(2047).with_css(Cap::CSS_NVM).with_to(15)
    }

    fn planned(cap: Cap, depth: u16) -> Result<Plan, ControllerError> {
        let config = ControllerConfig { queue_depth: depth, ..ControllerConfig::default() };
        plan(cap, &config, Quirks::empty())
    }

    #[test]
    fn mqes_is_clamped_to_refused_at_zero_and_does_not_overflow() {
        let entries = |mqes, depth| planned(cap().with_mqes_z(mqes), depth).map(|p| p.entries);
        assert_eq!(entries(0, 1), Err(ControllerError::BadMqes));
        assert_eq!(entries(1, 1), Ok(2));
        assert_eq!(entries(1, 4000), Ok(2));
        assert_eq!(entries(6, 255), Ok(7));
        assert_eq!(entries(2047, 255), Ok(256));
        assert_eq!(entries(0xFFFF, 4095), Ok(4096));
        assert_eq!(entries(0xFFFF, 256), Ok(257));
    }

    #[test]
    fn pages_above_64_kib_are_refused_by_name_and_smaller_ones_used() {
        for mpsmin in 0..=4 {
            let plan = planned(cap().with_mpsmin(mpsmin).with_mpsmax(15), 7).expect("usable");
            assert_eq!(plan.page_bytes, 4096 << mpsmin);
            assert_eq!(plan.cc.mps(), mpsmin);
        }
        assert_eq!(
            planned(cap().with_mpsmin(5), 7),
            Err(ControllerError::PageSize { min_bytes: 128 << 10, max_bytes: 64 << 10 })
        );
    }

    #[test]
    fn command_sets() {
        let css = |bits| planned(cap().with_css(bits), 7).map(|p| p.cc.css());
        assert_eq!(css(0), Ok(0), "assumed");
        assert_eq!(css(1), Ok(0));
        assert_eq!(css(0x41), Ok(0));
        assert_eq!(css(0x40), Ok(6));
        assert_eq!(css(0x80), Err(ControllerError::NoNvmCommandSet(0x80)));
    }

    #[test]
    fn ready_limits_have_a_floor_a_ceiling_and_follow_crto() {
        const S: u64 = 1_000_000_000;
        let config = ControllerConfig::default();
        let limit = |to, crto| ready_limit_ns(cap().with_to(to), crto, &config) / S;
        assert_eq!(limit(0, None), 2);
        assert_eq!(limit(15, None), 7);
        assert_eq!(limit(255, None), 30);
        assert_eq!(limit(2, Some(Crto::new().with_crwmt(40))), 20);
        assert_eq!(limit(0, Some(Crto::new().with_crwmt(u16::MAX))), 30);
        assert_eq!(limit(20, Some(Crto::new())), 10, "a CRTO of 0 does not shorten TO");
    }

    #[test]
    fn shutdown_limits() {
        const MS: u64 = 1_000_000;
        let config = ControllerConfig::default();
        let limit = |us, quirks| shutdown_limit_ns(us, &config, quirks) / MS;
        assert_eq!(limit(0, Quirks::empty()), 1000);
        assert_eq!(limit(3_000_000, Quirks::empty()), 3000);
        assert_eq!(limit(u32::MAX, Quirks::empty()), 10_000);
        assert_eq!(limit(u32::MAX, Quirks::NO_SHST), 1000);
    }

    #[test]
    fn short_rings_are_widened_for_drives_that_need_it() {
        let config = ControllerConfig { queue_depth: 31, ..ControllerConfig::default() };
        let wide = plan(cap(), &config, Quirks::WIDE_QUEUE).expect("usable");
        assert_eq!(wide.entries, 1024);
    }
}
