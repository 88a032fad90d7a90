//! One stay on a topic, from opening it to whatever ends it.

use std::io;
use std::time::{Duration, Instant};

use async_io::Timer;
use async_std::future::timeout;
use async_std::task;
use futures::future::{self, Either};
use p2p_proto::board::line::Lines;
use p2p_proto::board::{BoardEvent, Line};

use crate::board::{Shared, Topic};
use crate::config::PicoConfig;
use crate::crowd::Crowd;
use crate::list_watch::ListWatch;
use crate::opening::Opened;
use crate::own_lines::OwnLines;
use crate::wire::{Channel, Wire};

/// A line that has begun to leave must be out by then.
const SEND_STALL: Duration = Duration::from_secs(30);
/// How long the server may take to close a channel.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How much of what the server says about an error is kept, bytes.
const SAID_BYTES: usize = 512;
const READ_BYTES: usize = 32 * 1024;
/// Reads in a row before other tasks get their turn.
const READS_PER_PASS: usize = 16;

/// Why a stay is over.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The handle wants it so.
    Dismissed,
    /// The server closed the topic; the connection still stands. `status` is not 0 and `said` tells why if it refuses.
    ThrownOut { status: i32, said: String },
    /// The topic is a private one of the guest's own (B-04).
    Misrouted,
    /// The topic does not carry the owner's list (any more, if `before`).
    NoList { before: bool },
    /// The connection failed.
    Lost(String),
}

impl From<io::Error> for Ended {
    fn from(fault: io::Error) -> Self {
        Self::Lost(fault.to_string())
    }
}

/// A topic that is open.
pub(crate) struct Visit<'a> {
    shared: &'a Shared,
    topic: &'a Topic,
    silence: Duration,
    wire: &'a Wire,
    channel: Channel,
    lines: Lines,
    said: Vec<u8>,
    /// What comes back because the topic was opened with replay.
    replayed: Option<OwnLines>,
    twin: Option<Channel>,
    sending: Option<Sending>,
    list: Option<ListWatch>,
    crowd: &'a mut Crowd,
    /// When the server last sent anything.
    heard: Instant,
    /// It was asked for a sign of life since.
    asked: bool,
}

/// The line that is being written.
struct Sending {
    line: Line,
    sent: usize,
    /// When its first byte was offered; libssh2 then wants the same bytes until it has taken them.
    begun: Option<Instant>,
}

impl<'a> Visit<'a> {
    /// Stays on a topic that was opened over `wire`.
    pub(crate) fn new(
        shared: &'a Shared,
        config: &'a PicoConfig,
        topic: &'a Topic,
        wire: &'a Wire,
        opened: Opened,
        crowd: &'a mut Crowd,
    ) -> Self {
        let now = Instant::now();
        let list = topic.access.is_some().then(|| ListWatch::new(now));
        Self {
            shared,
            topic,
            silence: wire.silence(config.silence),
            wire,
            channel: opened.channel,
            lines: opened.lines,
            replayed: opened.twin.is_some().then(OwnLines::default),
            twin: opened.twin,
            said: Vec::new(),
            sending: None,
            list,
            crowd,
            heard: now,
            asked: false,
        }
    }

    /// Carries lines in both directions until something ends it.
    pub(crate) async fn run(mut self) -> Ended {
        match self.carry().await {
            Ok(never) => match never {},
            Err(Ended::ThrownOut { .. }) => self.thrown_out().await,
            Err(Ended::Dismissed) => {
                // What was written last must not be overtaken by the goodbye.
                let _ = timeout(CLOSE_TIMEOUT, self.wire.until(|| self.channel.close())).await;
                Ended::Dismissed
            }
            Err(ended) => ended,
        }
    }

    async fn carry(&mut self) -> Result<std::convert::Infallible, Ended> {
        let mut buffer = vec![0; READ_BYTES];
        let (mut again, mut may_read) = (false, true);
        loop {
            if self.shared.is_dismissed() {
                return Err(Ended::Dismissed);
            }
            if self.pass(&mut buffer)? || self.has_work() {
                (again, may_read) = (false, true);
                task::yield_now().await;
                continue;
            }
            // Another channel's half-sent packet may have kept the line back and be gone by now: one more try before sleeping.
            if self.sending.as_ref().is_some_and(|line| line.begun.is_some()) && !self.wire.wants_to_send() && !again {
                again = true;
                continue;
            }
            loop {
                let was_heard = self.wait(may_read).await;
                // With a packet stuck half-way, libssh2 does not read: then a readable socket is no reason to wake up.
                may_read = !(was_heard && self.wire.wants_to_send());
                // The answer must meet the waiting side: libssh2 would take it off the socket and not tell.
                if !self.handle_time(Instant::now())? {
                    break;
                }
            }
            again = false;
        }
    }

    /// Does all that can be done without waiting; whether anything moved.
    fn pass(&mut self, buffer: &mut [u8]) -> Result<bool, Ended> {
        let sent = self.send()?;
        let received = self.receive(buffer)?;
        if received {
            self.note_heard();
        }
        let closed = self.close_twin()?;
        let looked = self.look()?;
        Ok(sent || received || closed || looked)
    }

    fn look(&mut self) -> Result<bool, Ended> {
        let Some(list) = &mut self.list else { return Ok(false) };
        let mut warnings = Vec::new();
        let looked = list.step(self.wire, self.topic, &mut warnings);
        for text in warnings {
            self.shared.report(BoardEvent::Warning(text));
        }
        looked
    }

    fn send(&mut self) -> Result<bool, Ended> {
        let mut moved = false;
        loop {
            if self.sending.is_none() {
                self.sending = self.shared.first_line().map(|line| Sending { line, sent: 0, begun: None });
            }
            let room = self.has_room();
            let Some(sending) = &mut self.sending else { return Ok(moved) };
            if sending.begun.is_none() && !room {
                return Ok(moved);
            }
            sending.begun.get_or_insert_with(Instant::now);
            match self.channel.write(&sending.line.as_bytes()[sending.sent..])? {
                Some(count) => sending.sent += count,
                None => return Ok(moved),
            }
            moved = true;
            if let Some(done) = self.sending.take_if(|sending| sending.sent == sending.line.as_bytes().len()) {
                self.shared.line_written();
                self.crowd.said(&done.line);
                if let Some(own) = &mut self.replayed {
                    own.sent(done.line);
                }
            }
        }
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Result<bool, Ended> {
        let mut moved = false;
        for _ in 0..READS_PER_PASS {
            match self.channel.read(buffer)? {
                Some(count @ 1..) => {
                    let (shared, replayed) = (self.shared, &mut self.replayed);
                    let (list, crowd, now) = (&mut self.list, &mut *self.crowd, Instant::now());
                    let mut foreign = true;
                    self.lines.feed(&buffer[..count], |line| {
                        foreign = false;
                        let own = replayed.as_mut().is_some_and(|own| own.take(&line));
                        if !own {
                            crowd.heard(&line, now);
                            if let Some(list) = list {
                                list.on_line(now, &line);
                            }
                            shared.report(BoardEvent::Line(line));
                        }
                    });
                    if let Some(list) = list.as_mut().filter(|_| foreign) {
                        list.on_foreign(now);
                    }
                }
                _ => break,
            }
            moved = true;
        }
        if let Some(count @ 1..) = self.channel.read_stderr(buffer)? {
            let room = SAID_BYTES.saturating_sub(self.said.len()).min(count);
            self.said.extend_from_slice(&buffer[..room]);
            moved = true;
        }
        if self.channel.eof() {
            return Err(Ended::ThrownOut { status: 0, said: String::new() });
        }
        Ok(moved)
    }

    /// The twin has done its service; the server answers its closing later.
    fn close_twin(&mut self) -> Result<bool, Ended> {
        let Some(twin) = &mut self.twin else { return Ok(false) };
        let closed = twin.close()?.is_some();
        if closed {
            self.twin = None;
        }
        Ok(closed)
    }

    /// Whether there is more to do that no event of the socket will announce: a later call of the pass took it off the socket.
    fn has_work(&self) -> bool {
        let may_begin = self.sending.as_ref().is_some_and(|line| line.begun.is_none()) && self.has_room();
        may_begin || self.channel.has_unread() || self.list.as_ref().is_some_and(ListWatch::has_unread)
    }

    /// Whether the line to be sent fits in one piece: cut in two, it could be torn apart by another writer's line.
    fn has_room(&self) -> bool {
        let size = self.sending.as_ref().map_or(0, |sending| sending.line.as_bytes().len());
        self.channel.room() >= size
    }

    /// Sleeps until the socket, the handle or the clock has something; whether the server was heard.
    async fn wait(&mut self, may_read: bool) -> bool {
        let busy = self.sending.is_some();
        let called = async { if busy { self.shared.abandoned().await } else { self.shared.called().await } };
        let readable = async { if may_read { self.wire.readable().await } else { future::pending().await } };
        let writable =
            async { if self.wire.wants_to_send() { self.wire.writable().await } else { future::pending().await } };
        let (called, readable, writable) = (std::pin::pin!(called), std::pin::pin!(readable), std::pin::pin!(writable));
        let others = future::select(future::select(called, writable), Timer::at(self.next_deadline()));
        let heard = matches!(future::select(readable, others).await, Either::Left(_));
        if heard {
            self.note_heard();
        }
        heard
    }

    fn note_heard(&mut self) {
        (self.heard, self.asked) = (Instant::now(), false);
    }

    fn next_deadline(&self) -> Instant {
        let sign_of_life = self.heard + if self.asked { self.silence } else { self.silence / 3 };
        let list = self.list.as_ref().and_then(ListWatch::deadline);
        let stall = self.sending.as_ref().and_then(|line| line.begun).map(|begun| begun + SEND_STALL);
        [list, stall].into_iter().flatten().fold(sign_of_life, Instant::min)
    }

    /// Whether the server was asked for a sign of life just now.
    fn handle_time(&mut self, now: Instant) -> Result<bool, Ended> {
        if now >= self.heard + self.silence {
            return Err(Ended::Lost(format!("nothing was heard from the server for {} s", self.silence.as_secs())));
        }
        let begun = self.sending.as_ref().and_then(|line| line.begun);
        if begun.is_some_and(|begun| now >= begun + SEND_STALL) {
            return Err(Ended::Lost(format!("the server took nothing for {} s", SEND_STALL.as_secs())));
        }
        if let Some(list) = &mut self.list {
            list.handle_time(now);
        }
        // Not beside a half-sent line: libssh2 could then finish neither.
        if self.asked || begun.is_some() || now < self.heard + self.silence / 3 {
            return Ok(false);
        }
        self.asked = true;
        self.wire.ask_for_life()?;
        Ok(true)
    }

    async fn thrown_out(mut self) -> Ended {
        match timeout(CLOSE_TIMEOUT, self.wire.until(|| self.channel.close())).await {
            Ok(Ok(())) => {
                let said = String::from_utf8_lossy(&self.said).trim().to_owned();
                Ended::ThrownOut { status: self.channel.exit_status().unwrap_or(0), said }
            }
            Ok(Err(fault)) => fault.into(),
            Err(_) => Ended::Lost("the server did not finish closing the topic".to_owned()),
        }
    }
}
