//! Random wakes, yields, spawns and cancellations against a simple model of the scheduler.

use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::task::Poll;
use std::collections::VecDeque;
use std::rc::Rc;

use crate::support::Rig;
use core_runtime::task::{Class, JoinHandle, SchedulerConfig, TaskOptions, WakeSlot};
use hybrid_conventions::testing::Random;

const TASKS: usize = 24;
const CONFIG_CAPS: [usize; 3] = [5, 4, 2];

/// What a task does in its next poll.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Act {
    Wait,
    Yield,
    End,
}

/// The shared half of a task: the test steers it, the task obeys.
struct Puppet {
    act: Cell<Act>,
    slot: WakeSlot,
    /// Another task to wake during the poll.
    pokes: Cell<Option<usize>>,
}

/// The model: a queue a class and the rules of the tick, written down plainly.
#[derive(Default)]
struct Model {
    queues: [VecDeque<usize>; 3],
    class: Vec<usize>,
    alive: Vec<bool>,
    cancelled: Vec<bool>,
    /// Whether the slot holds a waker.
    armed: Vec<bool>,
    polls: Vec<usize>,
}

impl Model {
    fn enqueue(&mut self, task: usize) {
        let queue = &mut self.queues[self.class[task]];
        if self.alive[task] && !queue.contains(&task) {
            queue.push_back(task);
        }
    }

    fn wake(&mut self, task: usize) {
        if core::mem::take(&mut self.armed[task]) {
            self.enqueue(task);
        }
    }

    fn run(&mut self, class: usize, puppets: &[Rc<Puppet>]) -> bool {
        let task = self.queues[class].pop_front().expect("not empty");
        if self.cancelled[task] {
            self.alive[task] = false;
            return false;
        }
        self.polls.push(task);
        if let Some(other) = puppets[task].pokes.get() {
            self.wake(other);
        }
        match puppets[task].act.get() {
            Act::Wait => self.armed[task] = true,
            Act::Yield => self.enqueue(task),
            Act::End => self.alive[task] = false,
        }
        true
    }

    fn run_latency(&mut self, left: &mut usize, puppets: &[Rc<Puppet>]) {
        for _ in 0..self.queues[0].len().min(*left) {
            *left -= usize::from(self.run(0, puppets));
        }
    }

    fn tick(&mut self, puppets: &[Rc<Puppet>]) {
        let mut left = CONFIG_CAPS[0];
        self.run_latency(&mut left, puppets);
        for _ in 0..self.queues[1].len().min(CONFIG_CAPS[1]) {
            self.run(1, puppets);
            self.run_latency(&mut left, puppets);
        }
        for _ in 0..self.queues[2].len().min(CONFIG_CAPS[2]) {
            if !(self.queues[0].is_empty() && self.queues[1].is_empty()) {
                break;
            }
            self.run(2, puppets);
        }
    }
}

fn play(seed: u64, steps: usize) -> usize {
    let rig = Rig::with(SchedulerConfig {
        latency_polls: 5,
        normal_polls: 4,
        background_polls: 2,
        ..SchedulerConfig::default()
    });
    let mut random = Random::new(seed);
    let mut model = Model::default();
    let polls: Rc<RefCell<Vec<usize>>> = Rc::default();
    let mut puppets: Vec<Rc<Puppet>> = Vec::new();
    let mut handles: Vec<Option<JoinHandle<()>>> = Vec::new();
    let world: Rc<RefCell<Vec<Rc<Puppet>>>> = Rc::default();
    let mut total = 0;
    for step in 0..steps {
        let pick = if puppets.is_empty() {
            0
        } else {
            usize::try_from(random.below(puppets.len() as u64)).unwrap()
        };
        match random.below(10) {
            0 if model.alive.iter().filter(|alive| **alive).count() < TASKS => {
                let class = Class::ALL[usize::try_from(random.below(3)).unwrap()];
                let puppet = Rc::new(Puppet {
                    act: Cell::new(Act::Wait),
                    slot: WakeSlot::new(),
                    pokes: Cell::new(None),
                });
                let index = puppets.len();
                let (mine, polls, world_) = (puppet.clone(), polls.clone(), world.clone());
                let future = poll_fn(move |cx| {
                    polls.borrow_mut().push(index);
                    if let Some(other) = mine.pokes.get() {
                        world_.borrow()[other].slot.wake();
                    }
                    match mine.act.get() {
                        Act::Wait => mine.slot.register(cx.waker()),
                        Act::Yield => cx.waker().wake_by_ref(),
                        Act::End => return Poll::Ready(()),
                    }
                    Poll::Pending
                });
                handles.push(Some(rig.spawn(TaskOptions::new("puppet", class), future)));
                puppets.push(puppet.clone());
                world.borrow_mut().push(puppet);
                model.class.push(class.index());
                model.alive.push(true);
                model.cancelled.push(false);
                model.armed.push(false);
                model.enqueue(index);
            }
            1..=4 if !puppets.is_empty() => {
                puppets[pick].slot.wake();
                model.wake(pick);
            }
            5 | 6 if !puppets.is_empty() => {
                let act = match random.below(8) {
                    0 => Act::End,
                    1..=3 => Act::Yield,
                    _ => Act::Wait,
                };
                puppets[pick].act.set(act);
                let other = usize::try_from(random.below(puppets.len() as u64)).unwrap();
                let pokes = (random.below(2) == 0).then_some(other);
                puppets[pick].pokes.set(pokes);
            }
            7 if !puppets.is_empty() && random.below(4) == 0 => {
                if handles[pick].take().is_some() && model.alive[pick] {
                    model.cancelled[pick] = true;
                    model.enqueue(pick);
                }
            }
            _ => {
                rig.tick();
                model.tick(&puppets);
                let expected = core::mem::take(&mut model.polls);
                assert_eq!(polls.take(), expected, "seed {seed}, step {step}");
                total += expected.len();
                let ready = model.queues.iter().map(VecDeque::len).sum::<usize>();
                let ours = rig.scheduler.stats().ready.iter().sum::<u32>();
                assert_eq!(ours as usize, ready, "seed {seed}, step {step}");
            }
        }
    }
    let alive = model.alive.iter().filter(|alive| **alive).count();
    assert_eq!(rig.scheduler.stats().live_tasks as usize, alive, "seed {seed}");
    total
}

#[test]
fn random_histories_poll_as_the_model_says() {
    let (seeds, steps) = if cfg!(miri) { (2, 150) } else { (200, 2_000) };
    let polls: usize = (1..=seeds).map(|seed| play(seed, steps)).sum();
    assert!(polls as u64 > seeds * steps as u64 / 20, "only {polls} polls");
}
