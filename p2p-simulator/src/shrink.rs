//! Makes a failing plan shorter while it fails by the same rule: first fewer faults, tasks and peers, then simpler and earlier ones.

use crate::plan::Plan;
use crate::run::{Failure, run};
use crate::trace::Trace;

/// A shorter plan that fails.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The plan.
    pub plan: Plan,
    /// Plans that were tried.
    pub tried: usize,
}

/// Shortens `plan`, which failed like `failure`, by at most `tries` runs.
pub fn shrink(plan: &Plan, failure: &Failure, tries: usize) -> Shrunk {
    let mut shrinker = Shrinker { best: plan.clone(), rule: failure.violation.rule, tried: 0, tries };
    loop {
        let before = shrinker.best.clone();
        shrinker.fewer(|plan| plan.faults.len(), |plan, at, count| drop(plan.faults.drain(at..at + count)));
        shrinker.fewer(|plan| plan.tasks.len(), |plan, at, count| drop(plan.tasks.drain(at..at + count)));
        shrinker.simpler();
        if shrinker.best == before || shrinker.tried >= tries {
            return Shrunk { plan: shrinker.best, tried: shrinker.tried };
        }
    }
}

struct Shrinker {
    best: Plan,
    rule: &'static str,
    tried: usize,
    tries: usize,
}

impl Shrinker {
    /// Keeps what `change` makes of the plan, if that still fails.
    fn attempt(&mut self, change: impl FnOnce(&mut Plan)) -> bool {
        let mut plan = self.best.clone();
        change(&mut plan);
        if plan == self.best || self.tried >= self.tries {
            return false;
        }
        self.tried += 1;
        let fails = run(&plan, Trace::off()).is_err_and(|failure| failure.violation.rule == self.rule);
        if fails {
            self.best = plan;
        }
        fails
    }

    /// Leaves out parts of a list: large ones first.
    fn fewer(&mut self, len: impl Fn(&Plan) -> usize, leave_out: impl Fn(&mut Plan, usize, usize)) {
        let mut count = len(&self.best);
        while count > 0 {
            let mut at = 0;
            while at < len(&self.best) {
                let these = count.min(len(&self.best) - at);
                if !self.attempt(|plan| leave_out(plan, at, these)) {
                    at += these;
                }
            }
            count /= 2;
        }
    }

    fn simpler(&mut self) {
        self.attempt(|plan| plan.closes_last = false);
        for seat in 0..self.best.workers.len() {
            self.attempt(|plan| plan.workers[seat].present = false);
            self.attempt(|plan| plan.workers[seat].at_ms = 0);
            self.attempt(|plan| plan.workers[seat].slots = 1);
            self.attempt(|plan| plan.workers[seat].memory_mib = 0);
            self.attempt(|plan| plan.workers[seat].labels.clear());
            self.attempt(|plan| plan.workers[seat].allow.clear());
        }
        for seat in 0..self.best.clients.len() {
            self.attempt(|plan| plan.clients[seat].present = false);
            self.attempt(|plan| plan.clients[seat].at_ms = 0);
        }
        for at in 0..self.best.tasks.len() {
            self.attempt(|plan| plan.tasks[at].cancel_ms = None);
            self.attempt(|plan| plan.tasks[at].timeout_ms = 0);
            self.attempt(|plan| (plan.tasks[at].once, plan.tasks[at].stdin) = (false, false));
            self.attempt(|plan| plan.tasks[at].cpus = 1);
            self.attempt(|plan| plan.tasks[at].memory_mib = 0);
            self.attempt(|plan| plan.tasks[at].labels.clear());
            self.attempt(|plan| plan.tasks[at].priority = 0);
            self.attempt(|plan| plan.tasks[at].poison = false);
            self.attempt(|plan| plan.tasks[at].input = None);
            while self.attempt(|plan| plan.tasks[at].time_ms /= 2) {}
        }
        for at in 0..self.best.faults.len() {
            while self.attempt(|plan| plan.faults[at].for_ms /= 2) {}
        }
        while self.attempt(earlier) {}
    }
}

/// Everything in half the time.
fn earlier(plan: &mut Plan) {
    plan.tasks.iter_mut().for_each(|task| {
        task.at_ms /= 2;
        task.cancel_ms = task.cancel_ms.map(|at| at / 2);
    });
    plan.faults.iter_mut().for_each(|fault| fault.at_ms /= 2);
}
