//! The session: the host's thread that holds the socket while a partition runs.
//!
//! It serves the partition's register mailbox by messages, reads CSTS every 10 ms and publishes it,
//! hears when the server is gone, and brings another one in.
//!
//! ```text
//!            end of stream, error, deadline               reconnect limit
//!     Up ──────────────────────────────────▶ Down ───────────────────────▶ GivenUp
//!      ▲   doorbells blank, CSTS says fatal    │     CSTS reads all ones, mailbox closed
//!      └───────────────────────────────────────┘
//!        new server open and fenced, and the driver knows: doorbells shown, registers real
//! ```
//!
//! While Down it answers for the controller: CAP and VS as they were, CSTS = RDY and CFS. So the
//! driver begins its ordinary reset: it stops ringing, clears CC.EN and waits for RDY = 0. It sees
//! that only from the new server's own register, and so only after the old server's process has
//! ended (see [`super::peer`]): what was in flight ends then, once, with a typed error. The
//! doorbells are replaced, at the same address, after the driver has shown that it knows (it read
//! CSTS since the loss, and CC.EN is 0) and before it reads RDY = 0.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use core_runtime::mailbox::{MailboxServer, RegAccess, RegOp};
use core_runtime::mem::DmaRegion;
use nvme_spec::registers::{Cap, Cc, Crto, Csts, Register, Version};
use rustix::event::{PollFd, PollFlags, poll};

use super::client::{Client, DoorbellFile};
use super::error::VfioUserError;
use super::peer::Peer;
use super::probe::probe;
use super::registers::Published;
use super::relay::{PartitionDoorbells, Relay};
use crate::sys::window::Window;
use crate::vfio_user::socket::timespec;
use crate::warnings::{WarningKind, Warnings};

/// How often CSTS is read: the period of the driver's own looks.
const HEALTH: Duration = Duration::from_millis(10);
/// For so long after an access the next one is waited for without sleeping: the driver writes its
/// registers in rows.
const AWAKE: Duration = Duration::from_micros(200);
/// For so long the sleeps are short: the driver polls RDY every 100 us.
const RESTLESS: Duration = Duration::from_millis(20);
/// A short sleep.
const SHORT_REST: Duration = Duration::from_micros(50);
/// A sleep while I/O goes on. Each end of one takes some 25 us from a server that polls on the same
/// CPU, and so from every command in flight: with 500 us it was the p99 of reads at depth 32. What
/// waits for it is the first register access of a reset; the socket's news wake it at once.
const LONG_REST: Duration = HEALTH;
/// Between two tries to reach a new server.
const TRY_EVERY: Duration = Duration::from_millis(10);
/// How long the controller may take to become disabled at the end.
const DISABLE_LIMIT: Duration = Duration::from_secs(2);
/// Registers end here; doorbells are no business of the mailbox.
const REGISTERS_END: u32 = 0x1000;

/// Where the server is and how patient we are.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) path: PathBuf,
    pub(super) timeout: Duration,
    pub(super) reconnect: Duration,
}

/// The partition's memory, for the server.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) file: OwnedFd,
    pub(super) region: DmaRegion,
}

/// A server that has our memory.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) client: Client,
    peer: Option<Peer>,
}

/// What a controller says of itself and never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) cap: u64,
    version: u32,
    crto: u32,
}

/// A server that was reached, everything of it that is needed.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) server: Server,
    pub(super) doorbells: DoorbellFile,
    pub(super) identity: Identity,
}

/// Reaches the server, resets it and gives it the memory; `before` is the server that must have let
/// go of it. All of it within one timeout.
pub(super) fn open(
    settings: &Settings,
    share: &Share,
    before: Option<&Option<Peer>>,
) -> Result<Opened, VfioUserError> {
    let mut client = Client::open(&settings.path, settings.timeout)?;
    let peer = Peer::of(client.server()).ok();
    if let Some(before) = before {
        match (before, &peer) {
            (Some(before), Some(peer)) => before.lets_in(peer)?,
            _ => return Err(VfioUserError::NoPeer),
        }
    }
    let doorbells = client.doorbells()?;
    client.reset()?;
    client.enable_bus()?;
    let cap = client.read64(Cap::OFFSET)?;
    let version = client.read32(Version::OFFSET)?;
    let crto = match Cap::from_raw(cap).crwms() {
        true => client.read32(Crto::OFFSET)?,
        false => 0,
    };
    client.map(share.file.as_fd(), share.region.iova.0, share.region.len() as u64)?;
    // Should another process have answered meanwhile, it is not known who has the memory.
    let peer = peer.filter(|_| client.server().is_some());
    client.opened();
    let identity = Identity { cap, version, crto };
    Ok(Opened { server: Server { client, peer }, doorbells, identity })
}

/// How it stands with the server.
#[derive(Debug)]
enum Link {
    Up(Server),
    Down(Down),
    /// Who may still have our memory.
    GivenUp(Holder),
}

#[derive(Debug)]
struct Down {
    since: Instant,
    next_try: Instant,
    /// Who had our memory.
    before: Option<Peer>,
    /// It ended the connection itself.
    closed: bool,
    /// The driver has read CSTS since the loss.
    told: bool,
    /// A new server, waiting for the driver.
    ready: Option<Opened>,
}

/// What is left at the end.
#[derive(Debug, Default)]
pub(super) struct Ended {
    pub(super) problem: Option<String>,
    holder: Holder,
}

/// Who may still write into our memory.
#[derive(Debug, Default)]
enum Holder {
    #[default]
    Nobody,
    /// A server that did not say that it has let go.
    Server(Peer),
    /// One whose process we do not know.
    Unknown,
}

impl Holder {
    /// After a loss; `closed`: the server ended the connection, and by the protocol has let go.
    fn of(peer: Option<Peer>, closed: bool) -> Self {
        match peer {
            _ if closed => Self::Nobody,
            Some(peer) => Self::Server(peer),
            None => Self::Unknown,
        }
    }
}

impl Ended {
    /// Of a thread that panicked: what the server does is not known.
    pub(super) fn panicked() -> Self {
        let problem = Some("the vfio-user session's thread panicked".to_owned());
        Self { problem, holder: Holder::Unknown }
    }

    /// Whether the server can no longer reach our memory: it said so, or has ended.
    pub(super) fn has_let_go(&self) -> bool {
        match &self.holder {
            Holder::Nobody => true,
            Holder::Server(peer) => peer.has_ended(),
            Holder::Unknown => false,
        }
    }
}

/// See the module's text.
pub(super) struct Session {
    pub(super) settings: Settings,
    pub(super) share: Share,
    pub(super) identity: Identity,
    pub(super) window: Window,
    /// Bytes of doorbells that the partition may ring.
    pub(super) doorbell_bytes: usize,
    pub(super) mailbox: MailboxServer,
    pub(super) published: Published,
    pub(super) warnings: Warnings,
    pub(super) stop: Arc<AtomicBool>,
    /// What a partition that is a process rings, whoever the server is.
    doorbells_apart: Option<PartitionDoorbells>,
    relay: Option<Relay>,
    link: Link,
    /// CC as the driver wrote it last.
    cc: u32,
    /// Why the server was lost, the last time.
    lost: Option<String>,
    last_access: Instant,
    next_health: Instant,
}

/// What a session begins with.
pub(super) struct Beginning {
    pub(super) settings: Settings,
    pub(super) share: Share,
    pub(super) server: Server,
    pub(super) identity: Identity,
    pub(super) window: Window,
    pub(super) doorbell_bytes: usize,
    pub(super) mailbox: MailboxServer,
    pub(super) published: Published,
    pub(super) warnings: Warnings,
    pub(super) stop: Arc<AtomicBool>,
    /// Of a partition that is a process.
    pub(super) doorbells_apart: Option<PartitionDoorbells>,
}

impl Session {
    pub(super) fn new(begin: Beginning) -> Self {
        let now = Instant::now();
        Self {
            settings: begin.settings,
            share: begin.share,
            identity: begin.identity,
            window: begin.window,
            doorbell_bytes: begin.doorbell_bytes,
            mailbox: begin.mailbox,
            published: begin.published,
            warnings: begin.warnings,
            stop: begin.stop,
            doorbells_apart: begin.doorbells_apart,
            relay: None,
            link: Link::Up(begin.server),
            cc: 0,
            lost: None,
            last_access: now,
            next_health: now,
        }
    }

    /// The thread's body.
    pub(super) fn run(mut self) -> Ended {
        while !self.stop.load(Ordering::Acquire) {
            if let Some(relay) = &mut self.relay {
                relay.carry();
            }
            self.serve();
            self.look();
            self.rest();
        }
        self.end()
    }

    /// Serves the mailbox, at most one access.
    fn serve(&mut self) {
        // The mailbox cannot lend itself and the session at once.
        let Self {
            mailbox,
            settings,
            identity,
            published,
            link,
            cc,
            lost,
            window,
            warnings,
            relay,
            ..
        } = self;
        let mut desk =
            Desk { settings, identity, published, link, cc, lost, window, warnings, relay };
        if mailbox.serve_or_refuse(|access| desk.access(access)) {
            self.last_access = Instant::now();
        }
    }

    fn desk(&mut self) -> Desk<'_> {
        Desk {
            settings: &self.settings,
            identity: &self.identity,
            published: &mut self.published,
            link: &mut self.link,
            cc: &mut self.cc,
            lost: &mut self.lost,
            window: &self.window,
            warnings: &self.warnings,
            relay: &mut self.relay,
        }
    }

    /// What is due: the status, or a new server.
    fn look(&mut self) {
        let now = Instant::now();
        match &mut self.link {
            Link::Up(_) if self.window.take_fault() => {
                self.desk().lose(&VfioUserError::DoorbellsGone);
            }
            Link::Up(server) if now >= self.next_health => {
                self.next_health = now + HEALTH;
                match server.client.read32(Csts::OFFSET) {
                    Ok(csts) => self.published.say(csts),
                    Err(error) => self.desk().lose(&error),
                }
            }
            Link::Up(_) | Link::GivenUp(_) => {}
            Link::Down(down) => {
                if down.ready.as_ref().is_some_and(|opened| is_readable(&opened.server)) {
                    // It went as it came.
                    down.ready = None;
                }
                if down.ready.is_some() {
                    self.bring_up();
                } else if now >= down.next_try {
                    down.next_try = now + TRY_EVERY;
                    self.try_again();
                }
            }
        }
    }

    fn try_again(&mut self) {
        let Link::Down(down) = &mut self.link else { return };
        let begun = Instant::now();
        let opened = open(&self.settings, &self.share, Some(&down.before)).and_then(|opened| {
            check_same(&opened, &self.identity, self.doorbell_bytes)?;
            let left = self.settings.timeout.saturating_sub(begun.elapsed());
            probe(&opened.doorbells, self.doorbell_bytes, left)?;
            Ok(opened)
        });
        match opened {
            Ok(opened) => down.ready = Some(opened),
            Err(error) if down.since.elapsed() >= self.settings.reconnect => {
                let lost = self.lost.get_or_insert_default();
                lost.push_str(&format!("; no other server came: {error}"));
                self.link = Link::GivenUp(Holder::of(down.before.take(), down.closed));
                self.published.say(u32::MAX);
                self.mailbox.close();
            }
            Err(_) => {}
        }
    }

    /// Lets the new server in, if the driver is ready for it.
    fn bring_up(&mut self) {
        let Link::Down(down) = &mut self.link else { return };
        if !down.told || Cc::from_raw(self.cc).en() {
            return;
        }
        let Some(opened) = down.ready.take() else { return };
        let DoorbellFile { file, offset, .. } = &opened.doorbells;
        if self.window.show(file.as_fd(), *offset, self.doorbell_bytes).is_err() {
            // The connection goes with it; the next try says why, if it comes to that.
            return;
        }
        if let Some(doorbells) = &self.doorbells_apart {
            match Relay::new(doorbells, self.window.span(self.doorbell_bytes)) {
                Ok(relay) => self.relay = Some(relay),
                Err(_) => return,
            }
        }
        let away = down.since.elapsed();
        self.link = Link::Up(opened.server);
        self.next_health = Instant::now();
        let path = self.settings.path.display();
        self.warnings.say(WarningKind::ServerBack, || {
            format!("the vfio-user server at {path} is back after {} ms", away.as_millis())
        });
    }

    fn rest(&mut self) {
        let quiet = self.last_access.elapsed();
        if quiet < AWAKE || self.relay.is_some() {
            std::thread::yield_now();
            return;
        }
        let time = if quiet < RESTLESS { SHORT_REST } else { LONG_REST };
        match &mut self.link {
            Link::Up(server) => {
                if wakes_within(server, time) {
                    let error = server.client.unasked();
                    self.desk().lose(&error);
                }
            }
            Link::Down(_) | Link::GivenUp(_) => std::thread::sleep(time),
        }
    }

    /// The partition has ended: stops the controller and takes the memory back.
    fn end(mut self) -> Ended {
        self.mailbox.close();
        let path = self.settings.path.display().to_string();
        let lost = self.lost.take().unwrap_or_default();
        match self.link {
            // A loss that was made good is none.
            Link::Up(mut server) => match close(&mut server, &self.share.region) {
                Ok(()) => Ended::default(),
                Err(error) => Ended {
                    problem: Some(format!(
                        "the vfio-user server at {path} may still reach our memory: {error}"
                    )),
                    holder: Holder::of(server.peer, error.is_closed()),
                },
            },
            Link::Down(Down { before, closed, .. }) => {
                let gone = before.as_ref().is_some_and(Peer::has_ended);
                let more = if gone { "" } else { "; it may still reach our memory" };
                let problem =
                    Some(format!("the vfio-user server at {path} was lost: {lost}{more}"));
                Ended { problem, holder: Holder::of(before, closed) }
            }
            Link::GivenUp(holder) => {
                let problem = Some(format!("the vfio-user server at {path} was lost: {lost}"));
                Ended { problem, holder }
            }
        }
    }
}

/// The part of a session that answers for the registers.
struct Desk<'a> {
    settings: &'a Settings,
    identity: &'a Identity,
    published: &'a mut Published,
    link: &'a mut Link,
    cc: &'a mut u32,
    lost: &'a mut Option<String>,
    window: &'a Window,
    warnings: &'a Warnings,
    relay: &'a mut Option<Relay>,
}

impl Desk<'_> {
    /// Does what the driver wants of a register; `None` refuses it.
    fn access(&mut self, access: RegAccess) -> Option<u64> {
        let RegAccess { offset, size, op } = access;
        if offset.checked_add(size.into()).is_none_or(|end| end > REGISTERS_END) {
            return None;
        }
        if let (Cc::OFFSET, 4, RegOp::Write(value)) = (offset, size, op) {
            *self.cc = u32::try_from(value).unwrap_or(u32::MAX);
            if let Some(relay) = self.relay.as_mut().filter(|_| !Cc::from_raw(*self.cc).en()) {
                relay.clear();
            }
        }
        if let Link::Up(server) = &mut *self.link {
            match do_access(&mut server.client, access) {
                Ok(value) => {
                    if let (Csts::OFFSET, RegOp::Read, Ok(csts)) =
                        (offset, op, u32::try_from(value))
                    {
                        self.published.say(csts);
                    }
                    return Some(value);
                }
                // It lives, and does not know this register.
                Err(VfioUserError::Refused { .. }) => return None,
                Err(error) => self.lose(&error),
            }
        }
        self.answer(offset, size, op)
    }

    /// Answers for a controller that is not there.
    fn answer(&mut self, offset: u32, size: u8, op: RegOp) -> Option<u64> {
        let Link::Down(down) = &mut *self.link else { return None };
        let RegOp::Read = op else {
            // Nobody is there to whom it matters; the driver is about to see it.
            return Some(0);
        };
        if offset == Csts::OFFSET {
            down.told = true;
        }
        Some(match (offset, size) {
            (Cap::OFFSET, 8) => self.identity.cap,
            (Version::OFFSET, 4) => self.identity.version.into(),
            (Crto::OFFSET, 4) => self.identity.crto.into(),
            (Cc::OFFSET, 4) => (*self.cc).into(),
            (Csts::OFFSET, 4) => failed_status().into(),
            _ => 0,
        })
    }

    /// The server is of no use any more.
    fn lose(&mut self, error: &VfioUserError) {
        let Link::Up(Server { peer, .. }) =
            std::mem::replace(self.link, Link::GivenUp(Holder::Nobody))
        else {
            return;
        };
        let now = Instant::now();
        *self.link = Link::Down(Down {
            since: now,
            next_try: now,
            before: peer,
            closed: error.is_closed(),
            told: false,
            ready: None,
        });
        // Until the driver knows, it rings into memory that nobody looks at. Should the kernel
        // refuse, it rings into the old server's file, where nobody looks either.
        let _ = self.window.blank();
        *self.relay = None;
        self.published.say(failed_status());
        *self.lost = Some(error.to_string());
        let path = self.settings.path.display();
        let limit = self.settings.reconnect.as_millis();
        self.warnings.say(WarningKind::ServerLost, || {
            format!(
                "the vfio-user server at {path} was lost: {error}; another one is waited for, \
                 {limit} ms (--vfio-user-reconnect)"
            )
        });
    }
}

/// What CSTS says while nobody is there.
fn failed_status() -> u32 {
    Csts::new().with_rdy(true).with_cfs(true).into_raw()
}

fn do_access(client: &mut Client, access: RegAccess) -> Result<u64, VfioUserError> {
    let RegAccess { offset, size, op } = access;
    match (op, size) {
        (RegOp::Read, 8) => client.read64(offset),
        (RegOp::Read, _) => client.read32(offset).map(u64::from),
        (RegOp::Write(value), 8) => client.write64(offset, value).map(|()| 0),
        (RegOp::Write(value), _) => {
            // The mailbox keeps the upper half zero.
            let value = u32::try_from(value & u64::from(u32::MAX)).unwrap_or(u32::MAX);
            client.write32(offset, value).map(|()| 0)
        }
    }
}

/// A driver that was set up for one controller goes on with the same one only.
fn check_same(
    opened: &Opened,
    identity: &Identity,
    doorbell_bytes: usize,
) -> Result<(), VfioUserError> {
    if opened.identity.cap != identity.cap {
        return Err(VfioUserError::Changed("cap differs"));
    }
    if opened.identity.version != identity.version {
        return Err(VfioUserError::Changed("vs differs"));
    }
    if opened.doorbells.len < doorbell_bytes {
        return Err(VfioUserError::Changed("fewer doorbells"));
    }
    Ok(())
}

/// Disables the controller, and unmaps the memory.
pub(super) fn close(server: &mut Server, region: &DmaRegion) -> Result<(), VfioUserError> {
    let client = &mut server.client;
    let cc = Cc::from_raw(client.read32(Cc::OFFSET)?);
    if cc.en() {
        client.write32(Cc::OFFSET, cc.with_en(false).into_raw())?;
    }
    let begun = Instant::now();
    while Csts::from_raw(client.read32(Csts::OFFSET)?).rdy() {
        if begun.elapsed() >= DISABLE_LIMIT {
            client.reset()?;
            if Csts::from_raw(client.read32(Csts::OFFSET)?).rdy() {
                let limit = u64::try_from(DISABLE_LIMIT.as_millis()).unwrap_or(u64::MAX);
                return Err(VfioUserError::NotDisabled(limit));
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    client.unmap(region.iova.0, region.len() as u64)
}

fn is_readable(server: &Server) -> bool {
    wakes_within(server, Duration::ZERO)
}

/// Whether anything comes from the server within `time`, its end included.
fn wakes_within(server: &Server, time: Duration) -> bool {
    let socket = server.client.socket();
    let mut fds = [PollFd::new(&socket, PollFlags::IN)];
    matches!(poll(&mut fds, Some(&timespec(time))), Ok(1))
}

/// The path, for messages.
pub(super) fn shown(path: &Path) -> String {
    format!("vfio-user:{}", path.display())
}
