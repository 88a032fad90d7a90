//! Kinds of tasks: those with the same [`Needs`] wait in one queue.

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};

use p2p_proto::ids::TaskId;

use super::super::Needs;

/// One kind of tasks. The number of a kind that has no task left is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in super::super) struct ClassId(pub(in super::super) usize);

/// Whose turn it is: higher priority first, then what was submitted first.
pub(in super::super) type Turn = (Reverse<i8>, TaskId, ClassId);

/// All kinds of tasks.
#[derive(Debug, Default)]
pub(in super::super) struct Classes {
    classes: Vec<Class>,
    by_needs: HashMap<Needs, ClassId>,
    /// Without tasks; oldest first.
    empty: VecDeque<ClassId>,
}

#[derive(Debug)]
pub(super) struct Class {
    pub(super) needs: Needs,
    /// Those that wait, and some that left: they are skipped when their turn comes.
    pub(super) queue: VecDeque<TaskId>,
    /// Where it stands among those of which tasks wait.
    turn: Option<Turn>,
    /// Those in `queue` that do wait.
    pub(super) waiting: usize,
    pub(super) unfinished: usize,
    mean_ran_us: f64,
    /// How many the mean is of.
    ran: u32,
}

/// Kinds without tasks that are remembered, for the next of their tasks.
const EMPTY_CLASSES: usize = 64;
/// Tasks that left which a queue may hold beyond as many as wait in it, before it is swept.
const SWEEP: usize = 64;
/// So many of its kind must have ended before a task's run time can be called long.
const SIBLINGS: u32 = 3;
/// Weight of the newest run time in the mean, as a fraction of 1.
const NEWEST: f64 = 0.1;

impl Classes {
    /// The kind with these needs, and whether its number means something new.
    pub(super) fn of_needs(&mut self, needs: Needs) -> (ClassId, bool) {
        if let Some(class) = self.by_needs.get(&needs) {
            return (*class, false);
        }
        let class = Class {
            needs: needs.clone(),
            queue: VecDeque::new(),
            turn: None,
            waiting: 0,
            unfinished: 0,
            mean_ran_us: 0.0,
            ran: 0,
        };
        let id = self.reuse().unwrap_or(ClassId(self.classes.len()));
        match self.classes.get_mut(id.0) {
            Some(old) => *old = class,
            None => self.classes.push(class),
        }
        self.by_needs.insert(needs, id);
        (id, true)
    }

    /// A number whose kind has been without tasks for longest, if there are many.
    fn reuse(&mut self) -> Option<ClassId> {
        while self.empty.len() > EMPTY_CLASSES {
            let id = self.empty.pop_front()?;
            // It may have got tasks meanwhile.
            if self.classes[id.0].unfinished == 0 {
                self.by_needs.remove(&self.classes[id.0].needs);
                self.empty.retain(|other| *other != id);
                return Some(id);
            }
        }
        None
    }

    /// All of them with their needs.
    pub(in super::super) fn iter(&self) -> impl Iterator<Item = (ClassId, &Needs)> {
        self.classes.iter().enumerate().map(|(at, class)| (ClassId(at), &class.needs))
    }

    pub(super) fn get(&self, id: ClassId) -> &Class {
        &self.classes[id.0]
    }

    pub(super) fn get_mut(&mut self, id: ClassId) -> &mut Class {
        &mut self.classes[id.0]
    }

    /// Where the class stands among those of which tasks wait.
    pub(in super::super) fn turn(&self, id: ClassId) -> Option<Turn> {
        self.classes[id.0].turn
    }

    /// Works out anew where the class stands: by its first task that `waits`. Returns where it stood before, and where it does now.
    pub(super) fn settle(&mut self, id: ClassId, waits: impl Fn(TaskId) -> bool) -> (Option<Turn>, Option<Turn>) {
        let class = &mut self.classes[id.0];
        while class.queue.pop_front_if(|task| !waits(*task)).is_some() {}
        let turn = class.queue.front().map(|front| (Reverse(class.needs.priority), *front, id));
        (std::mem::replace(&mut class.turn, turn), turn)
    }

    /// One of its tasks ran for so long.
    pub(in super::super) fn on_ran(&mut self, id: ClassId, ran_us: u64) {
        let class = &mut self.classes[id.0];
        class.ran = class.ran.saturating_add(1);
        let ran_us = ran_us as f64;
        class.mean_ran_us += (ran_us - class.mean_ran_us) * f64::from(class.ran).recip().max(NEWEST);
    }

    /// How long its tasks run, once enough have ended to say.
    pub(in super::super) fn mean_ran_us(&self, id: ClassId) -> Option<f64> {
        let class = &self.classes[id.0];
        (class.ran >= SIBLINGS).then_some(class.mean_ran_us)
    }

    pub(super) fn push(&mut self, id: ClassId, task: TaskId, first: bool) {
        let class = &mut self.classes[id.0];
        class.waiting += 1;
        if first {
            class.queue.push_front(task);
        } else {
            class.queue.push_back(task);
        }
    }

    /// One that waited does not any more.
    pub(super) fn on_dequeued(&mut self, id: ClassId, task: TaskId) {
        let class = &mut self.classes[id.0];
        class.waiting -= 1;
        if class.queue.front() == Some(&task) {
            class.queue.pop_front();
        }
        if class.waiting == 0 {
            class.queue.clear();
        }
    }

    /// Drops what left the queue otherwise than by its turn, once that is most of it.
    pub(super) fn sweep(&mut self, id: ClassId, mut waits: impl FnMut(TaskId) -> bool) {
        let class = &mut self.classes[id.0];
        if class.queue.len() > 2 * class.waiting + SWEEP {
            class.queue.retain(|task| waits(*task));
        }
    }

    pub(super) fn on_removed(&mut self, id: ClassId) {
        let class = &mut self.classes[id.0];
        class.unfinished -= 1;
        if class.unfinished == 0 {
            self.empty.push_back(id);
            // A kind that has one task after the other is noted once each time.
            if self.empty.len() > 4 * EMPTY_CLASSES + self.classes.len() {
                let (classes, mut seen) = (&self.classes, std::collections::HashSet::new());
                self.empty.retain(|id| classes[id.0].unfinished == 0 && seen.insert(*id));
            }
        }
    }

    /// Nothing waits or runs any more.
    pub(super) fn clear(&mut self) {
        for class in &mut self.classes {
            (class.waiting, class.unfinished, class.turn) = (0, 0, None);
            class.queue.clear();
        }
    }
}
