//! A plan for people: one line for each part.

use std::fmt;

use super::{Fault, Plan, Seat, TaskPlan};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "plan of seed {}:", self.seed)?;
        if self.closes_last {
            writeln!(f, "              the board closes the last one on it")?;
        }
        for (at, worker) in self.workers.iter().enumerate().filter(|(_, worker)| worker.present) {
            write!(f, "  {:>7} ms  worker {at} of {} starts: {} slots", worker.at_ms, worker.user, worker.slots)?;
            if worker.memory_mib > 0 {
                write!(f, ", {} MiB", worker.memory_mib)?;
            }
            if !worker.labels.is_empty() {
                write!(f, ", {}", worker.labels.join(" "))?;
            }
            if !worker.allow.is_empty() {
                write!(f, ", for {} only", worker.allow.join(" and "))?;
            }
            writeln!(f)?;
        }
        for (at, client) in self.clients.iter().enumerate().filter(|(_, client)| client.present) {
            writeln!(f, "  {:>7} ms  client {at} of {} starts", client.at_ms, client.user)?;
        }
        let mut rest = self.tasks.as_slice();
        while let Some(first) = rest.first() {
            // Those that are alike share a line.
            let alike = rest.iter().take_while(|task| like(task) == like(first) && task.at_ms == first.at_ms).count();
            let times = if alike > 1 { format!("{alike} times ") } else { String::new() };
            writeln!(f, "  {:>7} ms  client {} submits {times}{}", first.at_ms, first.client, like(first))?;
            rest = &rest[alike..];
        }
        for fault in &self.faults {
            writeln!(f, "  {:>7} ms  {}, for {} ms", fault.at_ms, fault.fault, fault.for_ms)?;
        }
        Ok(())
    }
}

fn like(task: &TaskPlan) -> String {
    let mut words = vec![format!("a task of {} ms", task.time_ms)];
    let mut add = |yes: bool, word: String| words.extend(yes.then_some(word));
    add(task.poison, "that ends its worker".to_owned());
    add(task.input.is_some(), format!("with the large input {}", task.input.unwrap_or_default()));
    add(task.cpus > 1, format!("{} slots", task.cpus));
    add(task.once, "once".to_owned());
    add(task.stdin, "stdin".to_owned());
    add(task.memory_mib > 0, format!("{} MiB", task.memory_mib));
    add(!task.labels.is_empty(), task.labels.join(" "));
    add(task.priority != 0, format!("priority {}", task.priority));
    add(task.timeout_ms > 0, format!("at most {} ms", task.timeout_ms));
    add(task.cancel_ms.is_some(), format!("cancelled at {} ms", task.cancel_ms.unwrap_or(0)));
    words.join(", ")
}

impl fmt::Display for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => write!(f, "the host"),
            Self::Worker(seat) => write!(f, "worker {seat}"),
            Self::Client(seat) => write!(f, "client {seat}"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Weather(weather) => {
                let faults = weather.faults;
                write!(
                    f,
                    "of 1000 lines {} are lost, {} repeated, {} held back, all delayed by up to {} ms",
                    faults.lose, faults.repeat, faults.hold, weather.delay_ms
                )
            }
            Self::Apart(seats) => {
                let seats: Vec<String> = seats.iter().map(ToString::to_string).collect();
                write!(f, "{} hear nobody else on the board", seats.join(" and "))
            }
            Self::BoardRestart => write!(f, "the board restarts"),
            Self::BoardAway(seat) => write!(f, "{seat} loses the board"),
            Self::Misrouted(seat) => write!(f, "{seat} is misrouted"),
            Self::Replay(times) => write!(f, "a stranger says {times} lines again"),
            Self::Forge(times) => write!(f, "a stranger forges {times} lines"),
            Self::Cut(seat) => write!(f, "the links of {seat} are cut"),
            Self::HalfOpen(seat) => write!(f, "the links of {seat} are cut, and only its own side notices"),
            Self::Unnoticed(seat) => write!(f, "the links of {seat} are cut, and nobody notices"),
            Self::Slow(seat, by_ms) => write!(f, "the links of {seat} take {by_ms} ms more"),
            Self::Wall => write!(f, "no connection comes about"),
            Self::Crash { seat, power, keeps } => {
                let how = if *power { "loses power" } else { "crashes" };
                let kept = if *keeps { "with" } else { "without" };
                write!(f, "{seat} {how} and starts again {kept} what it had kept")
            }
            Self::Drain(seat) => write!(f, "worker {seat} drains, and another one starts"),
            Self::Stop(seat) => write!(f, "worker {seat} is stopped, and another one starts"),
            Self::Leave(seat) => write!(f, "client {seat} leaves, and another one starts"),
            Self::Sleep(seat) => write!(f, "{seat} sleeps"),
            Self::Skew(seat, by_s) => write!(f, "the clock of {seat} is {by_s} s off"),
        }
    }
}
