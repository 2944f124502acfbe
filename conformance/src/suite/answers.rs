//! What the device answers to single commands, right ones and wrong ones, sent past the driver.
//!
//! The cases go through tables of [`Row`]s ([`admin`], [`queues`], [`io`]): a name, a command, and
//! the answer. One status means that every device answers exactly so, the model and QEMU's drives
//! alike; where the specification leaves a choice, the row names all that it allows and the section
//! that says so; where a device is known to answer what it must not, the row names the device
//! ([`Known`]). `docs/conformance.md` lists both kinds. All rows are gone through before the case
//! fails. A row that needs what Identify does not offer is left out by name.
//!
//! Nothing is sent that a device might not survive, or that touches data outside of the blocks that
//! the suite may use: no format, no sanitize, no firmware.

mod admin;
mod bare;
mod io;
mod queues;

use core_runtime::mem::SharedDma;
use nvme_spec::{
    Cdw12Io, Cid, Cns, Cqe, DsmRange, FeatureId, FeatureSelect, IdentifyController, Lba, Nsid,
    NvmOpcode, QueueGrant, Sqe, Status, StatusCode, fixed_text,
};
use zerocopy::IntoBytes;

use self::bare::{Bare, Ring, plus};
use super::cx::{Cx, Space};
use super::{Case, Needs, Outcome, Skip, guard};

pub(super) const CASES: &[Case] = &[
    asks("answers::admin_commands_are_answered_as_the_table_says", false, admin_commands),
    asks("answers::event_requests_beyond_their_limit_are_refused", false, event_requests),
    asks("answers::queues_are_made_and_refused_as_the_table_says", false, queue_commands),
    asks("answers::reads_and_flushes_are_answered_as_the_table_says", false, reads),
    asks("answers::commands_that_write_are_answered_as_the_table_says", true, writes),
];

/// A case of wrong commands: what the device says of its host is pardoned.
const fn asks(name: &'static str, writes: bool, run: fn(&Cx<'_>) -> Outcome) -> Case {
    let needs = if writes { Needs::PARDON.union(Needs::WRITES) } else { Needs::PARDON };
    Case { name, needs, run }
}

/// Makes a row's command, or says why this device is not asked.
type Ask = fn(&Stage) -> Result<Sqe, &'static str>;

/// Bits of DW0 that the specification fixes, and what they are.
type Fixed = fn(&Stage) -> (u32, u32);

/// A command and its answer. Statuses are compared by type, code and DNR.
#[derive(Clone, Copy)]
struct Row {
    name: &'static str,
    ask: Ask,
    answer: Answer,
    known: Option<Known>,
    result: Option<Fixed>,
}

/// What may be answered.
#[derive(Clone, Copy)]
enum Answer {
    /// This, by everybody.
    One(Status),
    /// One of these, as the section says.
    AnyOf(&'static [Status], &'static str),
}

/// A device that answers what the specification does not allow.
#[derive(Clone, Copy)]
struct Known {
    /// How its model number in Identify starts.
    model: &'static str,
    status: Status,
    /// What is wrong with it.
    why: &'static str,
}

/// How QEMU's drives call themselves.
const QEMU: &str = "QEMU NVMe Ctrl";

const OK: Status = Status::SUCCESS;
const FIELD: Status = StatusCode::INVALID_FIELD.do_not_retry();
const NAMESPACE: Status = StatusCode::INVALID_NAMESPACE.do_not_retry();
/// A namespace identifier that this command does not take: it *should* be the first.
const NOT_OF_ALL: Answer =
    Answer::AnyOf(&[FIELD, NAMESPACE], "NVMe Base 2.0, section 3.3.3.1 (NSID)");

const OPCODE: Status = StatusCode::INVALID_OPCODE.do_not_retry();
const PRP_OFFSET: Status = StatusCode::PRP_OFFSET_INVALID.do_not_retry();

/// A device may leave DNR clear where a retry is in vain.
const DNR_SECTION: &str = "NVMe Base 2.0, section 3.3.3.2 (DNR)";

/// FUSE with no fused operation offered: an unsupported value, or half of a pair.
const FUSED: Answer = Answer::AnyOf(
    &[
        StatusCode::ABORTED_MISSING_FUSED.do_not_retry(),
        StatusCode::ABORTED_MISSING_FUSED.status(),
        FIELD,
        StatusCode::INVALID_FIELD.status(),
    ],
    "NVMe Base 2.0, section 3.4.2",
);

/// A row with one answer.
const fn row(name: &'static str, status: Status, ask: Ask) -> Row {
    any(name, Answer::One(status), ask)
}

/// A row with an answer of any kind.
const fn any(name: &'static str, answer: Answer, ask: Ask) -> Row {
    Row { name, ask, answer, known: None, result: None }
}

impl Row {
    /// With bits of DW0.
    const fn result(mut self, result: Fixed) -> Self {
        self.result = Some(result);
        self
    }

    /// With a device that is known to deviate.
    const fn known(mut self, known: Known) -> Self {
        self.known = Some(known);
        self
    }

    /// What is wrong with an answer, if anything.
    fn check(&self, stage: &Stage, cqe: &Cqe) -> Option<String> {
        let seen = cqe.status().code().status().with_dnr(cqe.status().dnr());
        let of_this = self.known.filter(|known| stage.model.starts_with(known.model));
        let (allowed, by): (&[Status], &str) = match (&of_this, &self.answer) {
            (Some(known), _) => (std::slice::from_ref(&known.status), known.why),
            (None, Answer::One(status)) => (std::slice::from_ref(status), "every device"),
            (None, Answer::AnyOf(statuses, section)) => (statuses, section),
        };
        if !allowed.contains(&seen) {
            let allowed: Vec<_> = allowed.iter().map(|status| shown(*status)).collect();
            let (name, allowed) = (self.name, allowed.join(" or "));
            return Some(format!("{name}: expected {allowed} [{by}], seen {}", shown(seen)));
        }
        let (mask, value) = self.result.filter(|_| seen.is_success())?(stage);
        let found = cqe.result() & mask;
        (found != value).then(|| {
            format!("{}: expected {value:#x} in DW0 & {mask:#x}, seen {found:#x}", self.name)
        })
    }
}

/// A status in hex, DNR as its bit, and in words.
fn shown(status: Status) -> String {
    format!("{:#06x} ({status})", status.bits())
}

/// What rows make their commands of.
struct Stage {
    model: String,
    id: IdentifyController,
    /// Bytes of a memory page.
    page: u64,
    /// Four pages: each filled with its number, from 1.
    data: SharedDma,
    /// A PRP list whose entries all name the second page of the data, and the last one the list.
    list: SharedDma,
    /// Two ranges: one beyond the end of the namespace, and from byte 16 one of the first block.
    ranges: SharedDma,
    /// A page for a completion queue and one for a submission queue, zeroed.
    queues: SharedDma,
    space: Space,
    nsid: Nsid,
    /// Bytes of a block.
    lba: u64,
    /// MDTS in bytes.
    most: Option<u64>,
    mqes_z: u16,
    cqr: bool,
    /// Queue pairs that were granted.
    pairs: u32,
    grant: QueueGrant,
    /// The temperature threshold can be saved, or nobody knows.
    saveable: bool,
    /// An identifier up to NN that no namespace has.
    hole: Option<Nsid>,
}

impl Stage {
    fn new(bare: &Bare<'_>, id: IdentifyController, space: Space) -> Self {
        let page = bare.page() as u64;
        let (data, list, ranges) = (bare.memory(4), bare.memory(1), bare.memory(1));
        for n in 0..4_u8 {
            let filled = data.span().fill(usize::from(n) * bare.page(), bare.page(), n + 1);
            filled.expect("inside");
        }
        for slot in 0..bare.page() / 8 {
            let last = slot + 1 == bare.page() / 8;
            let entry = if last { list.iova().0 } else { plus(data.iova(), page) };
            list.span().write(slot * 8, &entry.to_le_bytes()).expect("inside");
        }
        let beyond = DsmRange { attributes: 0, blocks: 1, slba: space.ns.blocks() };
        let first = DsmRange { attributes: 0, blocks: 1, slba: space.first };
        ranges.span().write(0, [beyond, first].as_bytes()).expect("inside");
        let wanted = Sqe::set_feature(Cid(0), Nsid::NONE, FeatureId::NUMBER_OF_QUEUES, 0);
        let grant = QueueGrant(bare.ask("number of queues", wanted.with_cdw(11, 0xfffe_fffe)));
        Self {
            model: fixed_text(&id.mn).to_owned(),
            id,
            page,
            data,
            list,
            ranges,
            queues: bare.memory(2),
            space,
            nsid: space.ns.nsid(),
            lba: u64::from(space.ns.lba_bytes()),
            most: id.max_transfer_bytes(bare.cap.min_page_bytes()),
            mqes_z: bare.cap.mqes_z(),
            cqr: bare.cap.cqr(),
            pairs: grant.pairs(),
            grant,
            saveable: saveable(bare),
            hole: hole(bare, id.nn.get()),
        }
    }

    /// Where the data are, `offset` bytes on.
    fn at(&self, offset: u64) -> u64 {
        plus(self.data.iova(), offset)
    }

    /// Identify into the first page of the data.
    fn identify(&self, cns: Cns, nsid: Nsid) -> Sqe {
        Sqe::identify(Cid(0), cns, nsid, self.at(0), self.at(self.page))
    }

    /// A command of `nlb` blocks from `slba`, two pages of them at most, over the data.
    fn io(&self, opcode: NvmOpcode, slba: u64, nlb: u64) -> Sqe {
        let second = if nlb * self.lba > self.page { self.at(self.page) } else { 0 };
        let nlb_z = u16::try_from(nlb - 1).expect("a few blocks");
        Sqe::io(opcode, Cid(0), self.nsid, Lba(slba), nlb_z, Cdw12Io::empty())
            .with_prps(self.at(0), second)
    }

    /// The same of the first block.
    fn one(&self, opcode: NvmOpcode) -> Sqe {
        self.io(opcode, self.space.first, 1)
    }

    /// The same over the end of the namespace.
    fn over_the_end(&self, opcode: NvmOpcode) -> Result<Sqe, &'static str> {
        if self.most.is_some_and(|most| 2 * self.lba > most) {
            return Err("two blocks are beyond MDTS");
        }
        Ok(self.io(opcode, self.space.ns.blocks() - 1, 2))
    }

    /// One block more than MDTS allows, inside of the namespace.
    fn beyond_mdts(&self, opcode: NvmOpcode) -> Result<Sqe, &'static str> {
        let most = self.most.ok_or("MDTS is no limit")?;
        let nlb_z = u16::try_from(most / self.lba).map_err(|_| "MDTS is beyond NLB")?;
        if self.space.blocks <= u64::from(nlb_z) {
            return Err("the namespace is smaller than MDTS");
        }
        let first = Lba(self.space.first);
        Ok(Sqe::io(opcode, Cid(0), self.nsid, first, nlb_z, Cdw12Io::empty())
            .with_prps(self.at(0), self.list.iova().0))
    }

    /// A page of blocks, half a page off, whose second entry is not at a page.
    fn second_entry_off(&self, opcode: NvmOpcode) -> Sqe {
        self.io(opcode, self.space.first, self.page / self.lba)
            .with_prps(self.at(self.page / 2), self.at(self.page + 8))
    }

    /// The identifier of no namespace that may have one.
    fn hole(&self) -> Result<Nsid, &'static str> {
        self.hole.ok_or("every identifier up to NN has a namespace")
    }

    /// Only where `offered`.
    const fn if_offered(offered: bool, sqe: Sqe) -> Result<Sqe, &'static str> {
        if offered { Ok(sqe) } else { Err("Identify does not offer it") }
    }

    /// Only where not `offered`.
    const fn unless_offered(offered: bool, sqe: Sqe) -> Result<Sqe, &'static str> {
        if offered { Err("Identify offers it") } else { Ok(sqe) }
    }
}

/// An NSID that cannot be valid.
const NO_NSID: Nsid = Nsid(u32::MAX - 1);

/// With another namespace.
const fn of(mut sqe: Sqe, nsid: Nsid) -> Sqe {
    sqe.0[0] = sqe.0[0] & 0xffff_ffff | (nsid.0 as u64) << 32;
    sqe
}

/// Whether the temperature threshold can be saved, or nobody knows: it must not change for good.
fn saveable(bare: &Bare<'_>) -> bool {
    let (feature, what) = (FeatureId::TEMPERATURE_THRESHOLD, FeatureSelect::Capabilities);
    let sqe = Sqe::get_feature(Cid(0), Nsid::NONE, feature, what);
    let cqe = bare.send(&bare.admin, sqe);
    !cqe.is_ok_and(|cqe| cqe.status().is_success() && cqe.result() & 1 == 0)
}

/// The lowest identifier up to `nn` that no namespace has, by the list of the active ones.
fn hole(bare: &Bare<'_>, nn: u32) -> Option<Nsid> {
    let list = bare.memory(1);
    let sqe = Sqe::identify(Cid(0), Cns::ACTIVE_NSIDS, Nsid::NONE, list.iova().0, 0);
    bare.ask("list of namespaces", sqe);
    let listed = |slot: u32| list.span().word32(slot as usize * 4).expect("inside").load();
    let free = (0..1024).find(|slot| listed(*slot) != slot + 1)? + 1;
    (free <= nn).then_some(Nsid(free))
}

/// On which queue the rows of a table are sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum On {
    Admin,
    /// With as many event requests outstanding as there may be.
    AdminWithEvents,
    Io,
}

fn admin_commands(cx: &Cx<'_>) -> Outcome {
    go_through(cx, On::Admin, admin::ROWS)
}

fn event_requests(cx: &Cx<'_>) -> Outcome {
    go_through(cx, On::AdminWithEvents, admin::EVENTS)
}

fn queue_commands(cx: &Cx<'_>) -> Outcome {
    go_through(cx, On::Admin, queues::ROWS)
}

fn reads(cx: &Cx<'_>) -> Outcome {
    go_through(cx, On::Io, io::READS)
}

fn writes(cx: &Cx<'_>) -> Outcome {
    go_through(cx, On::Io, io::WRITES)
}

fn go_through(cx: &Cx<'_>, on: On, rows: &[Row]) -> Outcome {
    // What there is to know, by the driver; then it is not asked any more.
    let rig = cx.rig();
    let id = rig.controller.identify();
    let page = rig.controller.capabilities().min_page_bytes();
    let mut spaces = cx.spaces(&rig)?.into_iter();
    rig.finish();
    let space = spaces.find(|space| space.ns.lba_bytes() <= page);
    let space =
        space.ok_or_else(|| Skip("no namespace has blocks of a page at most".to_owned()))?;

    let bare = Bare::up(cx.backend)?;
    let stage = Stage::new(&bare, id, space);
    if on == On::AdminWithEvents {
        bare.leave_event_requests(stage.id.async_event_limit() as usize);
    }
    let ring = (on == On::Io).then(|| bare.io());
    let wrong = all(&bare, &stage, ring.as_ref().unwrap_or(&bare.admin), rows);
    // Nothing is given back before the device has let go of it.
    bare.disable();
    drop((stage, ring));
    bare.finish();
    assert!(wrong.is_empty(), "of {} rows:\n{}", rows.len(), wrong.join("\n"));
    Ok(())
}

/// Sends them all; what is wrong, a line each.
fn all(bare: &Bare<'_>, stage: &Stage, ring: &Ring, rows: &[Row]) -> Vec<String> {
    let mut wrong = Vec::new();
    for row in rows {
        let sqe = match (row.ask)(stage) {
            Ok(sqe) => sqe,
            Err(why) => {
                guard::leave_out(format!("{}: {why}", row.name));
                continue;
            }
        };
        match bare.send(ring, sqe) {
            Ok(cqe) => wrong.extend(row.check(stage, &cqe)),
            Err(why) => {
                wrong.push(format!("{}: {why}; the rows after it were not sent", row.name));
                break;
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCS: &str = include_str!("../../../docs/conformance.md");

    fn rows() -> impl Iterator<Item = &'static Row> {
        let tables = [admin::ROWS, admin::EVENTS, queues::ROWS, io::READS, io::WRITES];
        tables.into_iter().flatten()
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = rows().map(|row| row.name).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    /// Lines of the tables in the docs, but for their heads.
    fn lines_of_docs() -> impl Iterator<Item = &'static str> {
        let from = DOCS.lines().skip_while(|line| *line != "## The same answer everywhere");
        let section = from.skip(1).take_while(|line| !line.starts_with("## "));
        section.filter(|line| {
            line.starts_with('|') && !line.starts_with("|---") && !line.starts_with("| row |")
        })
    }

    #[test]
    fn a_line_of_the_docs_has_a_row_with_a_choice_or_a_known_deviation() {
        assert!(lines_of_docs().count() > 10);
        for line in lines_of_docs() {
            let name = line.trim_start_matches("| ").split(" | ").next().expect("a cell");
            let row = rows().find(|row| row.name == name);
            let row = row.unwrap_or_else(|| panic!("docs have {name}, and no table"));
            let plain = matches!(row.answer, Answer::One(_)) && row.known.is_none();
            assert!(!plain, "{name} has one answer");
        }
        let mut names: Vec<_> = lines_of_docs().map(|line| line.split(" | ").next()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), lines_of_docs().count(), "a row stands twice");
    }

    #[test]
    fn a_row_with_a_choice_or_a_known_deviation_is_in_the_docs_with_its_reason() {
        for row in rows() {
            let line = DOCS.lines().find(|line| line.starts_with(&format!("| {} |", row.name)));
            let reason = match (row.answer, row.known) {
                (Answer::AnyOf(statuses, section), None) => {
                    assert!(statuses.len() > 1, "{}", row.name);
                    section
                }
                (Answer::One(_), Some(known)) => known.why,
                (Answer::One(_), None) => {
                    assert_eq!(line, None, "{} has one answer", row.name);
                    continue;
                }
                (Answer::AnyOf(..), Some(_)) => panic!("{} has both", row.name),
            };
            let line = line.unwrap_or_else(|| panic!("{} is not in docs", row.name));
            assert!(line.contains(reason), "{line} does not say: {reason}");
        }
    }
}
