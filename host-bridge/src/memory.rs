//! Memory by policy: the page size asked for, the next smaller one where the machine has none, and
//! exactly one line that says so.
//!
//! Called by [`crate::runtime`] for everything that a partition uses. A [`MemorySource`] is told
//! first what the whole run needs, so that its warnings name the number that fixes them. It never
//! changes the system itself. All memory is reserved, touched and (where that is needed) locked
//! before it is handed out: a partition takes no page fault for it.

use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};

use crate::numa::strays;
use crate::sys::mapping::Mapped;
use crate::sys::memfd::{Memfd, MemoryRefused, PageSize};
use crate::sys::numa::{Placement, PolicyGuard};
use crate::sys::resident::STACK_BYTES;
use crate::topology::{free_huge_pages, meminfo_bytes, read_line};
use crate::warnings::{WarningKind, Warnings};

/// Memory that could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// The kernel refused even 4 KiB pages.
    #[error("{0}; free some, or ask for less: dma_bytes, private_bytes, event_ring_bytes")]
    Refused(#[from] MemoryRefused),
    /// Taking it would make the kernel kill someone.
    #[error(
        "{needed} bytes of memory are needed, the machine has {available} available; free some, or \
         ask for less: dma_bytes, private_bytes, event_ring_bytes"
    )]
    TooLittle {
        /// Bytes needed.
        needed: usize,
        /// What `/proc/meminfo` calls available.
        available: u64,
    },
    /// A size beyond the address space.
    #[error("{0} bytes are more than an address space holds")]
    Absurd(usize),
}

/// A memory file and the mapping of its writer.
#[derive(Debug)]
pub struct SharedMemory {
    /// The file; its descriptor goes to whoever else may map it.
    pub memfd: Memfd,
    /// Our mapping.
    pub mapped: Mapped,
}

impl SharedMemory {
    /// Gives the pages back, and leaves the addresses mapped for who may still hold a view.
    pub fn retire(self) {
        // A refused hole only means that the pages stay until the process ends.
        let _ = self.memfd.punch();
    }
}

/// Memory that one side writes and the other side only reads: sealed so.
#[derive(Debug)]
pub struct OneWriter {
    /// The writer's side.
    pub writer: SharedMemory,
    /// The reader's mapping, without write permission.
    pub reader: Mapped,
}

/// Makes memory of the preferred page size, or of smaller pages with one warning.
#[derive(Clone, Debug)]
pub struct MemorySource {
    preferred: PageSize,
    whole_run_bytes: usize,
    warnings: Warnings,
    root: PathBuf,
    node: Option<u32>,
    interleaved: Vec<u32>,
}

impl MemorySource {
    /// Memory in pages of `preferred`; `whole_run_bytes` is what will be asked for in all, and
    /// only used to say how much is missing.
    #[must_use]
    pub fn new(preferred: PageSize, whole_run_bytes: usize, warnings: Warnings) -> Self {
        let root = PathBuf::from("/");
        Self { preferred, whole_run_bytes, warnings, root, node: None, interleaved: Vec::new() }
    }

    /// From this NUMA node: huge pages from it alone, so that a pool without any falls back with
    /// its warning; small ones while it has them. `None` leaves it to the kernel.
    #[must_use]
    pub fn near(mut self, node: Option<u32>) -> Self {
        self.node = node;
        self
    }

    /// The node that was asked for.
    #[must_use]
    pub const fn node(&self) -> Option<u32> {
        self.node
    }

    /// Page by page in turn from these nodes, for tables that all of them read; fewer than two
    /// leave it to the kernel.
    #[must_use]
    pub fn interleaved(mut self, nodes: &[u32]) -> Self {
        self.interleaved = if nodes.len() > 1 { nodes.to_vec() } else { Vec::new() };
        self
    }

    /// Where its warnings go.
    #[must_use]
    pub const fn warnings(&self) -> &Warnings {
        &self.warnings
    }

    /// Reserved, touched and locked memory that several parties write: size sealed.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn shared(&self, name: &str, len: usize) -> Result<SharedMemory, MemoryError> {
        let shared = self.file(name, len)?;
        shared.memfd.seal_size()?;
        Ok(shared)
    }

    /// Memory with one writer: mapped writable once, sealed, then mapped read-only.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn one_writer(&self, name: &str, len: usize) -> Result<OneWriter, MemoryError> {
        let writer = self.file(name, len)?;
        writer.memfd.seal_single_writer()?;
        let reader = Mapped::read_only(&writer.memfd)?;
        Ok(OneWriter { writer, reader })
    }

    /// Memory that we write and somebody else's process reads: mapped writable once, then sealed.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn writer_only(&self, name: &str, len: usize) -> Result<SharedMemory, MemoryError> {
        let writer = self.file(name, len)?;
        writer.memfd.seal_single_writer()?;
        Ok(writer)
    }

    /// Reserved memory that somebody else's process will map, write and seal.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn unmapped(&self, name: &str, len: usize) -> Result<Memfd, MemoryError> {
        self.fall_back(len, |len, page| Memfd::create(name, len, page))
    }

    /// Private memory, never shared and never seen by a device.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn private(&self, len: usize) -> Result<Mapped, MemoryError> {
        let mapped = self.fall_back(len, Mapped::private)?;
        self.lock(&mapped);
        self.look_where(&mapped, "private memory");
        Ok(mapped)
    }

    /// What the whole run locks at most, the stack included.
    pub(crate) const fn locked_in_all(&self) -> usize {
        self.whole_run_bytes.saturating_add(STACK_BYTES)
    }

    fn file(&self, name: &str, len: usize) -> Result<SharedMemory, MemoryError> {
        let shared = self.fall_back(len, |len, page| {
            let memfd = Memfd::create(name, len, page)?;
            let mapped = Mapped::writable(&memfd)?;
            Ok(SharedMemory { memfd, mapped })
        })?;
        self.lock(&shared.mapped);
        self.look_where(&shared.mapped, name);
        Ok(shared)
    }

    /// Tries `make` with the preferred page size, then with smaller ones.
    fn fall_back<T>(
        &self,
        len: usize,
        make: impl Fn(usize, PageSize) -> Result<T, MemoryRefused>,
    ) -> Result<T, MemoryError> {
        let first = self.preferred.fitting(len);
        let mut page = first;
        let mut why = None;
        loop {
            let rounded = page.round_up(len).ok_or(MemoryError::Absurd(len))?;
            if !page.is_huge() {
                self.check_available(rounded)?;
            }
            match (self.placed(rounded, page, &make), page.smaller()) {
                (Ok(made), _) => {
                    if let Some(refused) = why {
                        self.warn_small_pages(&refused, page);
                    }
                    return Ok(made);
                }
                // The first refusal counts: it is about the pages that were asked for.
                (Err(refused), Some(smaller)) => {
                    why.get_or_insert(refused);
                    page = smaller;
                }
                (Err(refused), None) => return Err(refused.into()),
            }
        }
    }

    /// Makes it with the thread's policy set to where it belongs.
    fn placed<T>(
        &self,
        len: usize,
        page: PageSize,
        make: impl Fn(usize, PageSize) -> Result<T, MemoryRefused>,
    ) -> Result<T, MemoryRefused> {
        let placement = match self.node {
            _ if !self.interleaved.is_empty() => Placement::Interleaved(self.interleaved.clone()),
            Some(node) if page.is_huge() => Placement::Only(node),
            Some(node) => Placement::Near(node),
            None => Placement::Anywhere,
        };
        // A policy that is refused leaves the memory where the kernel puts it, which is looked at.
        let _policy = PolicyGuard::set(&placement);
        make(len, page)
    }

    /// Warns once if pages are not where they should be.
    fn look_where(&self, mapped: &Mapped, name: &str) {
        let Some(node) = self.node else { return };
        let Some((strays, pages)) = strays(mapped, node) else { return };
        if strays != 0 {
            self.warnings.say(WarningKind::RemoteMemory, || {
                format!(
                    "{strays} of {pages} pages of {name} are not on numa node {node}, where their \
                     core is: it had none left; free some there, or reserve huge pages on it: \
                     /sys/devices/system/node/node{node}/hugepages"
                )
            });
        }
    }

    /// Small pages are overcommitted: asking for more than there is would not fail, but kill.
    fn check_available(&self, needed: usize) -> Result<(), MemoryError> {
        match meminfo_bytes(&self.root, "MemAvailable") {
            Some(available) if (needed as u64) > available => {
                Err(MemoryError::TooLittle { needed, available })
            }
            _ => Ok(()),
        }
    }

    /// A page of 1 GiB is for one piece, pages of 2 MiB are for the whole run.
    fn warn_small_pages(&self, refused: &MemoryRefused, got: PageSize) {
        let whole = self.whole_run_bytes;
        let needed = if refused.page == PageSize::Huge1G { refused.len } else { whole };
        self.warnings.say(WarningKind::SmallPages, || self.small_pages_line(refused, got, needed));
    }

    fn small_pages_line(&self, refused: &MemoryRefused, got: PageSize, needed: usize) -> String {
        let MemoryRefused { step, page: wanted, errno, .. } = *refused;
        let pages = needed.div_ceil(wanted.bytes()) as u64;
        let free = free_huge_pages(&self.root, wanted.bytes(), self.node).unwrap_or(0);
        let on = self.node.map(|node| format!(" on numa node {node}")).unwrap_or_default();
        format!(
            "{wanted} huge pages{on}: {pages} needed, {free} free; using {got} pages instead, \
             which is slower; {step} failed: {errno}; {}",
            self.huge_pages_fix(wanted, pages, free)
        )
    }

    /// More pages help only where too few are free; where enough are, something else forbids them.
    fn huge_pages_fix(&self, wanted: PageSize, pages: u64, free: u64) -> String {
        let pool = match self.node {
            Some(node) => format!("/sys/devices/system/node/node{node}/hugepages"),
            None => "/sys/kernel/mm/hugepages".to_owned(),
        };
        let pool = format!("{pool}/hugepages-{}kB", wanted.bytes() >> 10);
        let there = self.root.join(pool.trim_start_matches('/'));
        if !there.exists() {
            return format!("this kernel has no pages of {wanted}");
        }
        if free >= pages {
            return "the pool has enough of them: look at the cgroup's hugetlb limits and at pages \
                    that others have reserved"
                .to_owned();
        }
        let there = read_line(&there.join("nr_hugepages"));
        let there: u64 = there.and_then(|line| line.parse().ok()).unwrap_or(0);
        let target = there + pages - free;
        match (wanted, self.node) {
            (PageSize::Huge1G, _) | (_, Some(_)) => {
                format!("as root: echo {target} > {pool}/nr_hugepages")
            }
            (_, None) => format!("as root: sysctl vm.nr_hugepages={target}"),
        }
    }

    fn lock(&self, mapped: &Mapped) {
        if let Err(errno) = mapped.lock() {
            self.say_unlocked(errno);
        }
    }

    /// Warns that something is not locked, once, whatever it is: the limit is the same for all.
    pub(crate) fn say_unlocked(&self, errno: rustix::io::Errno) {
        let needed = self.locked_in_all();
        self.warnings.say(WarningKind::Unlocked, || {
            unlocked_line(needed, memlock_limit(), &user_name(&self.root), errno)
        });
    }
}

/// What this process may lock, in bytes; `None` is unlimited.
#[must_use]
pub fn memlock_limit() -> Option<u64> {
    getrlimit(Resource::Memlock).current
}

/// The user as `limits.conf` wants it: the name, or the number where the machine knows none.
pub(crate) fn user_name(root: &Path) -> String {
    let uid = rustix::process::getuid().as_raw().to_string();
    let passwd = std::fs::read_to_string(root.join("etc/passwd")).unwrap_or_default();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    });
    name.unwrap_or(uid)
}

fn unlocked_line(
    needed: usize,
    limit: Option<u64>,
    user: &str,
    errno: rustix::io::Errno,
) -> String {
    let limit = limit.map_or_else(|| "unlimited".into(), |bytes| format!("{bytes} bytes"));
    let kib = needed.div_ceil(1024);
    format!(
        "memory is not locked ({errno}): {needed} bytes needed, RLIMIT_MEMLOCK is {limit}; \
         put \"{user} - memlock {kib}\" into /etc/security/limits.conf and log in again"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use std::sync::{Arc, Mutex};

    fn source(preferred: PageSize, whole: usize, root: &Path) -> (MemorySource, Lines) {
        let lines = Lines::default();
        let sink = Arc::clone(&lines.0);
        let warnings = Warnings::to(move |w| sink.lock().expect("lock").push(w.line.clone()));
        let mut source = MemorySource::new(preferred, whole, warnings);
        source.root = root.to_owned();
        (source, lines)
    }

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<String>>>);

    impl Lines {
        fn of_pages(&self) -> Vec<String> {
            let lines = self.0.lock().expect("lock");
            lines.iter().filter(|line| line.contains("huge pages")).cloned().collect()
        }
    }

    /// A machine whose pool is as the test says, for the texts; mappings go to the real one.
    fn machine(nr: u32, free: u32) -> TempDir {
        let root = TempDir::new("pool");
        let pool = "sys/kernel/mm/hugepages/hugepages-2048kB";
        root.write(&format!("{pool}/nr_hugepages"), &nr.to_string());
        root.write(&format!("{pool}/free_hugepages"), &free.to_string());
        root
    }

    #[test]
    fn without_huge_pages_small_ones_serve_and_one_line_names_the_fix() {
        // A terabyte of huge pages is on no build machine; nothing of it is touched.
        let root = machine(10, 3);
        let (source, lines) = source(PageSize::Huge2M, 32 << 20, root.path());
        let make = |_, page: PageSize| {
            if page.is_huge() { Err(refusal(page)) } else { Ok(page) }
        };
        for _ in 0..3 {
            assert_eq!(source.fall_back(5 << 20, make), Ok(PageSize::Small4K));
        }
        assert_eq!(
            lines.of_pages(),
            ["2 MiB huge pages: 16 needed, 3 free; using 4 KiB pages instead, which is slower; \
              reservation failed: Cannot allocate memory (os error 12); as root: \
              sysctl vm.nr_hugepages=23"]
        );
    }

    #[test]
    fn with_enough_free_pages_the_line_names_the_refusal_and_no_larger_pool() {
        let root = machine(20, 20);
        let (source, lines) = source(PageSize::Huge2M, 32 << 20, root.path());
        let errno = rustix::io::Errno::FAULT;
        let make = |len, page: PageSize| match page {
            PageSize::Small4K => Ok(()),
            _ => Err(MemoryRefused { step: "populating", len, page, errno }),
        };
        assert_eq!(source.fall_back(5 << 20, make), Ok(()));
        let line = lines.of_pages().pop().expect("one line");
        assert!(line.contains("16 needed, 20 free; using 4 KiB pages"), "{line}");
        assert!(line.contains("; populating failed: Bad address"), "{line}");
        assert!(line.ends_with("others have reserved"), "{line}");
        assert!(!line.contains("sysctl") && !line.contains('\n'), "{line}");
    }

    fn refusal(page: PageSize) -> MemoryRefused {
        MemoryRefused { step: "reservation", len: 2 << 30, page, errno: rustix::io::Errno::NOMEM }
    }

    #[test]
    fn gigabyte_pages_fall_back_to_two_mebibytes_first() {
        let root = machine(0, 0);
        root.write("sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages", "1");
        let (source, lines) = source(PageSize::Huge1G, 1 << 30, root.path());
        let make = |len: usize, page: PageSize| match page {
            PageSize::Huge1G => Err(refusal(page)),
            _ => Ok((len, page)),
        };
        // A small piece never wants one, and is not worth a line.
        assert_eq!(source.fall_back(3 << 20, make), Ok((4 << 20, PageSize::Huge2M)));
        assert_eq!(lines.of_pages(), [""; 0]);
        let piece = (1 << 30) + 1;
        assert_eq!(source.fall_back(piece, make), Ok(((1 << 30) + (2 << 20), PageSize::Huge2M)));
        let line = lines.of_pages().pop().expect("one line");
        assert!(line.starts_with("1 GiB huge pages: 2 needed, 0 free; using 2 MiB"), "{line}");
        assert!(
            line.contains("echo 3 > /sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages"),
            "{line}"
        );
    }

    #[test]
    fn the_real_machine_gives_memory_with_or_without_a_pool() {
        let (source, lines) = source(PageSize::Huge2M, 6 << 20, Path::new("/"));
        let dma = source.shared("dma", 3 << 20).expect("shared memory");
        let region = source.one_writer("region", 4096).expect("one-writer memory");
        let private = source.private(1 << 20).expect("private memory");
        assert!(dma.mapped.len() >= 3 << 20);
        region.writer.mapped.span().word32(0).expect("aligned").store(7);
        assert_eq!(region.reader.read_span().load32(0), Ok(7));
        assert!(lines.of_pages().len() <= 1, "{:?}", lines.of_pages());
        assert!(private.len() >= 1 << 20);
    }

    #[test]
    fn small_pages_beyond_what_is_available_are_an_error_with_both_numbers() {
        let root = TempDir::new("poor");
        root.write("proc/meminfo", "MemAvailable: 1024 kB\n");
        let (source, _lines) = source(PageSize::Small4K, 2 << 20, root.path());
        let error = source.private(2 << 20).expect_err("too little");
        assert_eq!(error, MemoryError::TooLittle { needed: 2 << 20, available: 1 << 20 });
        let refused = MemoryError::Refused(refusal(PageSize::Small4K));
        for line in [error.to_string(), refused.to_string()] {
            assert!(line.contains("ask for less: dma_bytes, private_bytes"), "{line}");
        }
    }

    #[test]
    fn the_user_is_named_as_the_machine_names_it() {
        let root = TempDir::new("users");
        let uid = rustix::process::getuid().as_raw();
        assert_eq!(user_name(root.path()), uid.to_string());
        root.write("etc/passwd", &format!("other:x:{}:0::/:/sh\nme:x:{uid}:0::/:/sh\n", uid + 1));
        assert_eq!(user_name(root.path()), "me");
    }

    #[test]
    fn the_memlock_line_gives_bytes_needed_the_limit_and_the_line_to_add() {
        let errno = rustix::io::Errno::NOMEM;
        let line = unlocked_line(64 << 20, Some(8 << 20), "trader", errno);
        assert!(line.contains("67108864 bytes needed, RLIMIT_MEMLOCK is 8388608 bytes"), "{line}");
        assert!(line.contains("\"trader - memlock 65536\" into /etc/security/limits"), "{line}");
    }
}
