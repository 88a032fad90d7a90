//! Prints what tasks printed, whole tasks one after the other; or one line of JSON for each.

use std::io::{self, IsTerminal as _, Write as _};

use indicatif::MultiProgress;

use super::follow::{Done, Verdict};
use super::spool::Spool;

/// What one line of JSON may carry of one stream, bytes.
const JSON_BYTES: usize = 16 * 1024 * 1024;
/// What is gathered before it is written, bytes.
const WRITE_BYTES: usize = 256 * 1024;

/// How to print.
#[derive(Clone)]
pub struct Printer {
    /// Each line begins with the task's values.
    pub tag: bool,
    /// A line of JSON for each task, and nothing else.
    pub json: bool,
    /// Drawn while nothing is written.
    pub bars: Option<MultiProgress>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    Stdout,
    Stderr,
}

impl Printer {
    /// Whether there is anything to print of this task.
    pub fn prints(&self, done: &Done) -> bool {
        self.json || !(done.stdout.is_empty() && done.stderr.is_empty())
    }

    /// Prints these tasks, in this order. Writing happens in another thread, for whoever reads it may be slow.
    ///
    /// # Errors
    /// When stdout or stderr cannot be written, or what was kept cannot be read.
    pub async fn print(self, tasks: Vec<Done>) -> io::Result<Vec<Done>> {
        let mut gathered = Gathered { printer: &self, to: To::Stdout, bytes: Vec::new() };
        for done in &tasks {
            if self.json {
                let mut line = serde_json::to_vec(&json(done)?)?;
                line.push(b'\n');
                gathered.add(To::Stdout, &line).await?;
                continue;
            }
            let tag = self.tag.then(|| {
                let mut tag = done.row.values.join(&b' ');
                tag.push(b'\t');
                tag
            });
            for (to, spool) in [(To::Stdout, &done.stdout), (To::Stderr, &done.stderr)] {
                let mut line_begins = true;
                for index in 0..spool.pieces() {
                    let piece = spool.piece(index)?;
                    match &tag {
                        Some(tag) => gathered.add(to, &tagged(&piece, tag, &mut line_begins)).await?,
                        None => gathered.add(to, &piece).await?,
                    }
                }
            }
        }
        gathered.write().await?;
        Ok(tasks)
    }
}

/// Bytes for one of the two, until there are enough or the other one's turn comes.
struct Gathered<'a> {
    printer: &'a Printer,
    to: To,
    bytes: Vec<u8>,
}

impl Gathered<'_> {
    async fn add(&mut self, to: To, bytes: &[u8]) -> io::Result<()> {
        if to != self.to || self.bytes.len() >= WRITE_BYTES {
            self.write().await?;
        }
        self.to = to;
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    async fn write(&mut self) -> io::Result<()> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        let (to, bytes, bars) = (self.to, std::mem::take(&mut self.bytes), self.printer.bars.clone());
        async_std::task::spawn_blocking(move || {
            let write = || match to {
                To::Stdout => {
                    let mut stdout = io::stdout().lock();
                    stdout.write_all(&bytes).and_then(|()| stdout.flush())
                }
                To::Stderr => io::stderr().lock().write_all(&bytes),
            };
            match bars {
                Some(bars) if to == To::Stderr || io::stdout().is_terminal() => bars.suspend(write),
                _ => write(),
            }
        })
        .await
    }
}

/// A piece with the tag before each line that begins in it.
fn tagged(piece: &[u8], tag: &[u8], line_begins: &mut bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(piece.len() + tag.len());
    for line in piece.split_inclusive(|byte| *byte == b'\n') {
        if *line_begins {
            out.extend_from_slice(tag);
        }
        out.extend_from_slice(line);
        *line_begins = line.ends_with(b"\n");
    }
    out
}

fn json(done: &Done) -> io::Result<serde_json::Value> {
    let text = |spool: &Spool| -> io::Result<(String, bool)> {
        let (bytes, more) = spool.head(JSON_BYTES)?;
        Ok((String::from_utf8_lossy(&bytes).into_owned(), more))
    };
    let values: Vec<_> = done.row.values.iter().map(|value| String::from_utf8_lossy(value)).collect();
    let (stdout, cut) = text(&done.stdout)?;
    let (stderr, also_cut) = text(&done.stderr)?;
    let (ended, exit, signal, why) = match &done.verdict {
        Verdict::Good => ("done", Some(0), None, None),
        Verdict::Failed { why, exit, signal } => ("failed", *exit, *signal, Some(why)),
        Verdict::Unfinished => ("unfinished", None, None, None),
    };
    Ok(serde_json::json!({
        "number": done.row.number,
        "arguments": values,
        "ended": ended,
        "exit": exit,
        "signal": signal,
        "why": why,
        "worker": done.worker.as_ref().map(ToString::to_string),
        "ran_s": done.ran.as_secs_f64(),
        "files": done.files,
        "stdout": stdout,
        "stderr": stderr,
        "cut": cut || also_cut,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_before_every_line_whatever_the_pieces() {
        for split in 0..8 {
            let (one, other) = b"ab\ncd\n\n".split_at(split.min(7));
            let mut begins = true;
            let mut out = tagged(one, b"x\t", &mut begins);
            out.extend(tagged(other, b"x\t", &mut begins));
            assert_eq!(out, b"x\tab\nx\tcd\nx\t\n");
        }
    }
}
