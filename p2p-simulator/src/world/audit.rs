//! What a machine holds, compared with its bounds and with what the world knows after each step (I-03, I-07); and everything at once, from
//! scratch, at the end of a run: that what was counted along the way is true.

use std::collections::BTreeMap;

use p2p_proto::ids::TaskId;
use p2p_proto::limits;
use p2p_scheduler::LinkId;
use p2p_scheduler::machine::Table;

use super::{Machine, Peer, World};
use crate::ledger::Violation;

impl World {
    /// After a step: the tables of this machine, and of a worker its slots.
    pub(super) fn check_tables(&mut self, peer: Peer) {
        if self.strict
            && let Err(violation) = self.tables_of(peer).and_then(|()| self.slots_of(peer))
        {
            self.ledger.break_rule(violation);
        }
    }

    fn tables_of(&self, peer: Peer) -> Result<(), Violation> {
        match &self.places[peer].machine {
            Machine::Host(machine) => within(peer, &machine.tables()),
            Machine::Worker(machine) => within(peer, &machine.tables()),
            Machine::Client(machine) => within(peer, &machine.tables()),
            Machine::Gone => Ok(()),
        }
    }

    /// A worker's own account of its slots and of what waits there is what the world counts: it knows no slot in use that is free.
    fn slots_of(&self, worker: Peer) -> Result<(), Violation> {
        let Machine::Worker(machine) = &self.places[worker].machine else { return Ok(()) };
        let (own, counted) = (machine.load(), self.load(worker));
        if own != counted && !self.places[worker].drained {
            let what = format!(
                "worker {worker} counts {own:?} slots in use and attempts that wait, and there are {counted:?}"
            );
            return Err(Violation::new("I-03", what));
        }
        Ok(())
    }

    /// Everything from scratch.
    ///
    /// # Errors
    /// What does not agree.
    pub fn audit(&self) -> Result<(), Violation> {
        let peers = 0..self.places.len();
        peers.clone().try_for_each(|peer| self.tables_of(peer).and_then(|()| self.slots_of(peer)))?;
        self.audit_tasks()?;
        for peer in peers.clone() {
            self.audit_attempts(peer)?;
            let wake = self.places[peer].wake;
            if self.wakes.iter().filter(|(_, of)| *of == peer).map(|(at, _)| *at).ne(wake) {
                return Err(Violation::new("I-10", format!("{peer} waits for {wake:?}, and will be woken otherwise")));
            }
            let links = self.links_of(peer).len();
            let most = if matches!(self.places[peer].machine, Machine::Client(_)) {
                limits::CLIENT_LINKS
            } else {
                limits::WORKER_LINKS
            };
            if links > most {
                return Err(Violation::new("I-07", format!("{peer} has {links} links, {most} are the bound")));
            }
        }
        let lines: u64 = peers.map(|peer| self.places[peer].lines).sum();
        if lines != self.ledger.lines() || lines != self.lines().0 {
            return Err(Violation::new(
                "I-09",
                format!("{lines} lines were said, and {} counted", self.ledger.lines()),
            ));
        }
        Ok(())
    }

    fn audit_tasks(&self) -> Result<(), Violation> {
        let mut here: BTreeMap<TaskId, (u32, u32)> = BTreeMap::new();
        for (_, task, runs) in self.all_attempts() {
            let (staged, running) = here.entry(task).or_default();
            *(if runs { running } else { staged }) += 1;
        }
        for (id, task) in self.ledger.tasks() {
            let counted = here.get(&id).copied().unwrap_or_default();
            let open = self.ledger.is_open(id);
            let fault = if (task.staged, task.running) != counted {
                Some((
                    "I-02",
                    format!("{:?} attempts wait and run, {counted:?} were counted", (task.staged, task.running)),
                ))
            } else if task.outcomes.len() > 1 || (open && !task.outcomes.is_empty()) {
                Some(("I-01", format!("it has {} outcomes, open: {open}", task.outcomes.len())))
            } else if !open && task.outcomes.is_empty() && self.is_alive(task.client) {
                Some(("I-01", "it has no outcome, and nobody waits for one".to_owned()))
            } else if task.spec.once && task.runs > 1 {
                Some(("I-02", format!("it is marked once and ran {} times", task.runs)))
            } else {
                None
            };
            if let Some((rule, why)) = fault {
                return Err(Violation::new(rule, format!("task {} of client {}: {why}", id.0, task.client)));
            }
        }
        Ok(())
    }

    /// I-03, I-07, I-08 and S-03 of one worker.
    fn audit_attempts(&self, worker: Peer) -> Result<(), Violation> {
        let Some(offer) = &self.places[worker].offer else { return Ok(()) };
        let (mut slots, mut memory, mut waiting) = (0, 0, BTreeMap::<LinkId, usize>::new());
        for (link, spec, runs) in self.attempts_at(worker) {
            if runs {
                slots += spec.cpus();
                memory += spec.memory_mib;
            } else {
                *waiting.entry(link).or_default() += 1;
            }
        }
        let (all_slots, all_memory) = (offer.offer.slots, offer.offer.memory_mib);
        if slots > all_slots || memory > all_memory {
            let what = format!("worker {worker} uses {slots} of {all_slots} slots and {memory} of {all_memory} MiB");
            return Err(Violation::new("I-03", what));
        }
        let of_each = all_slots.saturating_add(limits::PREFETCH.max(all_slots)) as usize;
        match waiting.into_iter().find(|(_, count)| *count > of_each) {
            Some((link, count)) => {
                Err(Violation::new("I-07", format!("{count} attempts of link {} wait at worker {worker}", link.0)))
            }
            None => Ok(()),
        }
    }
}

fn within(peer: Peer, tables: &[Table]) -> Result<(), Violation> {
    match tables.iter().find(|table| table.holds > table.most) {
        Some(Table { what, holds, most }) => {
            Err(Violation::new("I-07", format!("{peer} holds {holds} {what}, {most} are the bound")))
        }
        None => Ok(()),
    }
}
