//! A trace as a Perfetto file.
//!
//! A track a core with a slice for each task's poll, and on it, as instants, what happened in
//! between; a track of its own for time over budget and one for time taken by others (Perfetto's
//! format has no colours: these tracks are what is red elsewhere); counters for depths. A command
//! is one flow: posted, told to the device, answered, its task woken, its task polled.
//!
//! Field numbers are those of Perfetto's published `trace_packet.proto`, `track_event.proto` and
//! `track_descriptor.proto`.

use std::collections::HashMap;
use std::io::{Result, Write};

use hybrid_abi::probe::{Group, ProbeEntry};

use super::event::named;
use super::loaded::{Event, Loaded, Then};
use super::proto::Message;

/// `Trace.packet`.
const PACKET: u32 = 1;
/// `TracePacket`'s fields.
const TIMESTAMP: u32 = 8;
const SEQUENCE: u32 = 10;
const TRACK_EVENT: u32 = 11;
const SEQUENCE_FLAGS: u32 = 13;
const TRACK_DESCRIPTOR: u32 = 60;
/// `TrackEvent`'s fields.
const ANNOTATION: u32 = 4;
const TYPE: u32 = 9;
const TRACK: u32 = 11;
const CATEGORY: u32 = 22;
const NAME: u32 = 23;
const COUNTER_VALUE: u32 = 30;
const FLOWS: u32 = 47;
const LAST_FLOWS: u32 = 48;

/// `TrackEvent.Type`.
const BEGIN: u64 = 1;
const END: u64 = 2;
const INSTANT: u64 = 3;
const COUNTER: u64 = 4;

/// Tracks.
const PROCESS: u64 = 1;
const CORE: u64 = 2;
const STOLEN: u64 = 3;
const OVER: u64 = 4;
const FIRST_COUNTER: u64 = 16;

/// Writes the events, which are in the order of their times.
pub(super) fn write(loaded: &Loaded, events: &[Event], out: &mut impl Write) -> Result<()> {
    let mut writer = Writer {
        loaded,
        out,
        counters: HashMap::new(),
        flights: Flights { next: u64::from(loaded.header.partition) << 40, ..Flights::default() },
        running: 0,
        open: false,
        ready: 0,
    };
    writer.tracks()?;
    for event in events {
        writer.event(event)?;
    }
    Ok(())
}

/// Commands on their way, each a flow.
#[derive(Debug, Default)]
struct Flights {
    next: u64,
    /// By probe's group and command: the flow, and the task that posted it.
    posted: HashMap<(u8, u32), (u64, u64)>,
    /// By queue: posted, and not told of.
    unrung: HashMap<u32, Vec<u64>>,
    /// By task: answered, and not woken for.
    answered: HashMap<u64, Vec<u64>>,
    /// By task: woken, and not polled.
    woken: HashMap<u64, Vec<u64>>,
    /// By queue, in flight.
    depth: HashMap<u32, u64>,
}

/// What is written about one event.
#[derive(Debug, Default)]
struct Drawn<'a> {
    kind: u64,
    track: u64,
    name: &'a str,
    category: &'a str,
    flows: &'a [u64],
    last_flows: &'a [u64],
}

struct Writer<'a, W> {
    loaded: &'a Loaded,
    out: &'a mut W,
    counters: HashMap<String, u64>,
    flights: Flights,
    /// The task that is being polled; 0 for none.
    running: u64,
    /// A slice is open on the core's track.
    open: bool,
    /// Tasks that wait to be polled, of the class that was woken last.
    ready: u64,
}

impl<W: Write> Writer<'_, W> {
    fn packet(&mut self, write: impl FnOnce(&mut Message)) -> Result<()> {
        let mut packet = Message::default();
        packet.nested(PACKET, |packet| {
            packet.varint(SEQUENCE, 1);
            write(packet);
        });
        self.out.write_all(&packet.0)
    }

    fn tracks(&mut self) -> Result<()> {
        let header = &self.loaded.header;
        let (name, cpu) = (header.name, header.partition);
        self.packet(|packet| {
            packet.varint(SEQUENCE_FLAGS, 1);
            packet.nested(TRACK_DESCRIPTOR, |track| {
                track.varint(1, PROCESS);
                track.nested(3, |process| {
                    process.varint(1, u64::from(cpu) + 1);
                    process.bytes(6, format!("partition {name}").as_bytes());
                });
            });
        })?;
        self.packet(|packet| {
            packet.nested(TRACK_DESCRIPTOR, |track| {
                track.varint(1, CORE);
                track.varint(5, PROCESS);
                track.nested(4, |thread| {
                    thread.varint(1, u64::from(cpu) + 1);
                    thread.varint(2, u64::from(cpu) + 1);
                    thread.bytes(5, format!("core {cpu}").as_bytes());
                });
            });
        })?;
        for (uuid, name) in [(STOLEN, "taken by others"), (OVER, "over budget")] {
            self.packet(|packet| {
                packet.nested(TRACK_DESCRIPTOR, |track| {
                    track.varint(1, uuid);
                    track.bytes(2, name.as_bytes());
                    track.varint(5, PROCESS);
                });
            })?;
        }
        Ok(())
    }

    fn draw(
        &mut self,
        tsc: u64,
        drawn: &Drawn<'_>,
        event: Option<(&Event, &ProbeEntry)>,
    ) -> Result<()> {
        let loaded = self.loaded;
        let ns = loaded.ns(tsc);
        self.packet(|packet| {
            packet.varint(TIMESTAMP, ns);
            packet.nested(TRACK_EVENT, |message| {
                message.varint(TYPE, drawn.kind);
                message.varint(TRACK, drawn.track);
                if drawn.kind != END {
                    message.bytes(CATEGORY, drawn.category.as_bytes());
                    message.bytes(NAME, drawn.name.as_bytes());
                }
                for flow in drawn.flows {
                    message.fixed64(FLOWS, *flow);
                }
                for flow in drawn.last_flows {
                    message.fixed64(LAST_FLOWS, *flow);
                }
                let Some((event, entry)) = event else { return };
                for (name, value) in named(entry, &event.record, &Then(loaded, event)) {
                    message.nested(ANNOTATION, |note| {
                        note.bytes(10, name.as_bytes());
                        note.bytes(6, value.as_bytes());
                    });
                }
            });
        })
    }

    /// A point of a counter's track, which is made when it is first needed.
    fn count(&mut self, tsc: u64, name: &str, value: u64) -> Result<()> {
        let next = FIRST_COUNTER + self.counters.len() as u64;
        let track = match self.counters.get(name) {
            Some(track) => *track,
            None => {
                self.counters.insert(name.to_owned(), next);
                self.packet(|packet| {
                    packet.nested(TRACK_DESCRIPTOR, |track| {
                        track.varint(1, next);
                        track.bytes(2, name.as_bytes());
                        track.varint(5, PROCESS);
                        track.nested(8, |_| {});
                    });
                })?;
                next
            }
        };
        let ns = self.loaded.ns(tsc);
        self.packet(|packet| {
            packet.varint(TIMESTAMP, ns);
            packet.nested(TRACK_EVENT, |message| {
                message.varint(TYPE, COUNTER);
                message.varint(TRACK, track);
                message.varint(COUNTER_VALUE, value);
            });
        })
    }

    fn event(&mut self, event: &Event) -> Result<()> {
        let Some(entry) = self.loaded.dictionary.get(&event.record.id) else { return Ok(()) };
        let entry = *entry;
        let (tsc, a, b) = (event.record.tsc, event.record.a, event.record.b);
        let name = entry.name.as_str();
        let at = Some((event, &entry));
        let instant = Drawn {
            kind: INSTANT,
            track: CORE,
            name,
            category: Group(entry.group).name(),
            ..Drawn::default()
        };
        match name {
            "sched.poll" => {
                self.close(tsc)?;
                self.running = a.into();
                self.open = true;
                let mut last = self.flights.woken.remove(&a.into()).unwrap_or_default();
                last.extend(self.flights.answered.remove(&a.into()).unwrap_or_default());
                let task = self.loaded.task_name(event, a.into());
                let (name, category) = (task.as_str(), "task");
                let drawn = Drawn { kind: BEGIN, name, category, last_flows: &last, ..instant };
                self.draw(tsc, &drawn, at)?;
                // The one that is polled waits no more; the next wake counts them all again.
                match self.ready.checked_sub(1) {
                    Some(left) => self.ready(tsc, left),
                    None => Ok(()),
                }
            }
            "sched.polled" => {
                self.running = 0;
                self.close(tsc)
            }
            "sched.overrun" | "sched.stolen" => self.lost_time(event, &entry),
            "driver.submit" | "bridge.submit" => {
                let flow = self.flights.post(entry.group, a, self.running);
                self.draw(tsc, &Drawn { flows: &[flow], ..instant }, at)?;
                self.depth(tsc, &entry, a, 1)
            }
            "driver.doorbell" => {
                let flows = self.flights.unrung.remove(&a).unwrap_or_default();
                self.draw(tsc, &Drawn { flows: &flows, ..instant }, at)
            }
            "driver.complete" | "bridge.complete" => {
                let flow = self.flights.answer(entry.group, a);
                self.draw(tsc, &Drawn { flows: flow.as_slice(), ..instant }, at)?;
                if flow.is_none() {
                    return Ok(());
                }
                self.depth(tsc, &entry, a, -1)
            }
            "sched.wake" => {
                let flows = self.flights.answered.remove(&a.into()).unwrap_or_default();
                self.draw(tsc, &Drawn { flows: &flows, ..instant }, at)?;
                self.flights.woken.entry(a.into()).or_default().extend(flows);
                self.ready(tsc, b)
            }
            "ring.depth" => self.count(tsc, "event ring, bytes", b),
            _ => self.draw(tsc, &instant, at),
        }
    }

    fn ready(&mut self, tsc: u64, tasks: u64) -> Result<()> {
        self.ready = tasks;
        self.count(tsc, "tasks ready", tasks)
    }

    /// Time over budget, or taken by others: a slice that ended now, on a track of its own.
    fn lost_time(&mut self, event: &Event, entry: &ProbeEntry) -> Result<()> {
        let record = &event.record;
        let over = entry.name.as_str() == "sched.overrun";
        let (track, category) = if over { (OVER, "overrun") } else { (STOLEN, "stolen") };
        let name = match over {
            true => format!("{} over budget", self.loaded.task_name(event, record.a.into())),
            false => "taken by others".to_owned(),
        };
        let drawn = Drawn { kind: BEGIN, track, name: &name, category, ..Drawn::default() };
        let from = record.tsc.saturating_sub(record.b);
        self.draw(from, &drawn, Some((event, entry)))?;
        self.draw(record.tsc, &Drawn { kind: END, track, ..Drawn::default() }, None)
    }

    /// Ends the open poll.
    fn close(&mut self, tsc: u64) -> Result<()> {
        if !std::mem::replace(&mut self.open, false) {
            return Ok(());
        }
        self.draw(tsc, &Drawn { kind: END, track: CORE, ..Drawn::default() }, None)
    }

    fn depth(&mut self, tsc: u64, entry: &ProbeEntry, command: u32, by: i64) -> Result<()> {
        let bridge = Group(entry.group) == Group::BRIDGE;
        let queue = if bridge { u32::MAX } else { command >> 16 };
        let depth = self.flights.depth.entry(queue).or_default();
        *depth = depth.saturating_add_signed(by);
        let depth = *depth;
        match bridge {
            true => self.count(tsc, "in flight, bridge", depth),
            false => self.count(tsc, &format!("in flight, queue {queue}"), depth),
        }
    }
}

impl Flights {
    /// A command was posted by a task: a new flow.
    fn post(&mut self, group: u8, command: u32, task: u64) -> u64 {
        self.next += 1;
        self.posted.insert((group, command), (self.next, task));
        if Group(group) == Group::DRIVER {
            self.unrung.entry(command >> 16).or_default().push(self.next);
        }
        self.next
    }

    /// It was answered.
    fn answer(&mut self, group: u8, command: u32) -> Option<u64> {
        let (flow, task) = self.posted.remove(&(group, command))?;
        if task != 0 {
            self.answered.entry(task).or_default().push(flow);
        }
        Some(flow)
    }
}
