//! Reads rows and makes tasks of them in a thread of its own, for both may have to wait for a disk or for whoever writes our stdin.

use std::thread;

use async_std::channel::{Receiver, Sender, bounded};
use async_std::task::block_on;
use p2p_proto::task::Failure;

use super::plan::{Plan, Ready};
use super::sources::Rows;
use super::template::Row;
use crate::trouble::Trouble;

/// Rows that are handed over at once, at most.
const BATCH: usize = 256;
/// What these may take, bytes.
const BATCH_BYTES: u64 = 4 * 1024 * 1024;
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

/// Starts the thread. It ends after the last row, or when the receiver is gone.
///
/// # Errors
/// When the system has no thread for it.
pub fn start(plan: Plan, rows: Rows) -> std::io::Result<Receiver<Fed>> {
    let (sender, receiver) = bounded(WAITING);
    // Not joined: it may wait for a stdin that never ends.
    thread::Builder::new().name("inputs".to_owned()).spawn(move || feed(&plan, rows, &sender))?;
    Ok(receiver)
}

fn feed(plan: &Plan, mut rows: Rows, sender: &Sender<Fed>) {
    let send = |fed| block_on(sender.send(fed)).is_ok();
    let mut number = 0;
    if let Some(total) = rows.known() {
        send(Fed::Total(total));
    }
    let (mut batch, mut bytes) = (Vec::new(), 0);
    loop {
        match rows.next() {
            Ok(Some(values)) => {
                number += 1;
                let row = Row { number, values };
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
        if full || !rows.is_ready() {
            bytes = 0;
            if !send(Fed::Rows(std::mem::take(&mut batch))) {
                return;
            }
        }
    }
    send(Fed::Rows(batch));
    send(Fed::Total(number));
}
