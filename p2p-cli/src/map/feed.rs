//! Reads rows and makes tasks of them in a thread of its own, for both may have to wait for a disk or for whoever writes our stdin.

use std::sync::Arc;
use std::thread;

use async_std::channel::{Receiver, Sender, bounded};
use async_std::task::block_on;
use p2p_proto::task::Failure;

use super::logged::Logged;
use super::plan::{Plan, Ready};
use super::sources::Rows;
use super::template::Row;
use crate::trouble::Trouble;

/// Rows that are handed over at once, at most.
const BATCH: usize = 256;
/// What these may take, bytes.
const BATCH_BYTES: u64 = 4 * 1024 * 1024;
/// Values that are kept until the whole log has been compared, bytes.
const HELD_BYTES: usize = 64 * 1024 * 1024;
/// Batches that wait to be taken.
const WAITING: usize = 2;

/// What the thread hands over.
pub enum Fed {
    /// So many rows will come in all.
    Total(u64),
    /// Rows, and the task of each or why there is none.
    Rows(Vec<(Row, Result<Ready, Failure>)>),
    /// The inputs cannot be read any more.
    Trouble(Trouble),
}

/// Starts the thread; what `logged` says is left out. It ends after the last row, or when the receiver is gone.
///
/// # Errors
/// When the system has no thread for it.
pub fn start(plan: Arc<Plan>, rows: Rows, logged: Option<Logged>) -> std::io::Result<Receiver<Fed>> {
    let (sender, receiver) = bounded(WAITING);
    // Not joined: it may wait for a stdin that never ends.
    thread::Builder::new()
        .name("inputs".to_owned())
        .spawn(move || feed(&plan, Left { rows, logged, number: 0 }, &sender))?;
    Ok(receiver)
}

fn feed(plan: &Plan, mut left: Left, sender: &Sender<Fed>) {
    let send = |fed| block_on(sender.send(fed)).is_ok();
    if let Some(total) = left.rows.known() {
        send(Fed::Total(total));
    }
    let mut held = Some(match left.hold(plan) {
        Ok(held) => held.into_iter(),
        Err(trouble) => {
            send(Fed::Trouble(trouble));
            return;
        }
    });
    let (mut batch, mut bytes) = (Vec::new(), 0);
    loop {
        let row = match held.as_mut().and_then(Iterator::next) {
            Some(row) => Ok(Some(row)),
            None => {
                held = None;
                left.next(plan)
            }
        };
        match row {
            Ok(Some(row)) => {
                let task = plan.task(&row);
                bytes += task.as_ref().map_or(0, |ready| ready.bytes);
                batch.push((row, task));
            }
            Ok(None) => break,
            Err(trouble) => {
                send(Fed::Rows(batch));
                send(Fed::Trouble(trouble));
                return;
            }
        }
        let full = batch.len() >= BATCH || bytes >= BATCH_BYTES;
        if full || held.is_none() && !left.rows.is_ready() {
            bytes = 0;
            if !send(Fed::Rows(std::mem::take(&mut batch))) {
                return;
            }
        }
    }
    send(Fed::Rows(batch));
    send(Fed::Total(left.number));
}

/// The rows that are to be run.
struct Left {
    rows: Rows,
    logged: Option<Logged>,
    /// The number of the last row that was read.
    number: u64,
}

impl Left {
    /// Those up to the end of the log, so that all that it has is compared before anything is run; fewer if they are too many to keep.
    fn hold(&mut self, plan: &Plan) -> Result<Vec<Row>, Trouble> {
        let last = self.logged.as_ref().map_or(0, Logged::last);
        let (mut held, mut bytes) = (Vec::new(), 0);
        while self.number < last && bytes < HELD_BYTES {
            let Some(row) = self.read(plan)? else { break };
            if let Some(row) = row {
                bytes +=
                    size_of::<Row>() + row.values.iter().map(|value| size_of::<Vec<u8>>() + value.len()).sum::<usize>();
                held.push(row);
            }
        }
        Ok(held)
    }

    fn next(&mut self, plan: &Plan) -> Result<Option<Row>, Trouble> {
        loop {
            match self.read(plan)? {
                Some(None) => {}
                Some(row) => return Ok(row),
                None => return Ok(None),
            }
        }
    }

    /// One row; nothing in place of one that is not run again.
    fn read(&mut self, plan: &Plan) -> Result<Option<Option<Row>>, Trouble> {
        let Some(values) = self.rows.next()? else {
            self.logged.as_ref().map_or(Ok(()), |logged| logged.check_count(self.number))?;
            return Ok(None);
        };
        self.number += 1;
        let row = Row { number: self.number, values };
        let skipped = match &self.logged {
            Some(logged) => logged.skips(row.number, || plan.line(&row))?,
            None => false,
        };
        Ok(Some((!skipped).then_some(row)))
    }
}
