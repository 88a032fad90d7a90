//! One SSH connection: who it is, and its channels, each with one command.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use russh::server::{Auth, ChannelOpenHandle, Handler, Msg, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelOpenFailure, ChannelWriteHalf, Pty};
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::board::{Board, Member, format_uuid, room};
use crate::channel::Sending;
use crate::command::{BadCommand, Command, Join, help};
use crate::gate::Gate;
use crate::limits::{MAX_CHANNELS, MAX_CHANNELS_OPENED, MAX_CHANNELS_OPENED_PUBLIC};
use crate::lock;
use crate::outbox::{End, Outbox};
use crate::server::{Place, Shared};
use crate::topics::Caller;
use crate::users::Users;

/// The handler of one connection's events.
pub(crate) struct Connection {
    shared: Arc<Shared>,
    gate: Arc<Gate>,
    peer: SocketAddr,
    /// How the client reached the hub, as arguments of `ssh`.
    target: String,
    caller: Option<Caller>,
    /// Among those who log in, then among those who have.
    place: Place,
    /// Until the login is over.
    logged_in: Option<oneshot::Sender<()>>,
    opened: usize,
    lanes: HashMap<ChannelId, Lane>,
}

/// One channel.
struct Lane {
    outbox: Arc<Outbox>,
    /// Until the command starts.
    write: Option<ChannelWriteHalf<Msg>>,
    terminal: bool,
    member: Option<Arc<Member>>,
}

impl Connection {
    pub(crate) fn new(
        shared: Arc<Shared>,
        gate: Arc<Gate>,
        peer: SocketAddr,
        local: SocketAddr,
        login: Place,
        logged_in: oneshot::Sender<()>,
    ) -> Connection {
        Connection {
            shared,
            gate,
            peer,
            target: format!("-p {} {}", local.port(), local.ip()),
            caller: None,
            place: login,
            logged_in: Some(logged_in),
            opened: 0,
            lanes: HashMap::new(),
        }
    }

    fn start(&mut self, id: ChannelId, line: &[u8], session: &mut Session) -> Result<(), russh::Error> {
        let (Some(caller), Some(lane)) = (self.caller.clone(), self.lanes.get_mut(&id)) else {
            return session.channel_failure(id);
        };
        // One command a channel: a second one finds no way out.
        let Some(write) = lane.write.take() else {
            return session.channel_failure(id);
        };
        let outbox = Arc::clone(&lane.outbox);
        let sending = Sending {
            outbox: Arc::clone(&outbox),
            write,
            handle: session.handle(),
            gate: Arc::clone(&self.gate),
            terminal: lane.terminal,
        };
        session.channel_success(id)?;
        match Command::parse(line) {
            Ok(Command::Help) => answer(&outbox, &help(&self.target)),
            Ok(Command::Ls) if caller.is_known() => {
                answer(&outbox, &self.shared.board.list(&caller.user));
            }
            Ok(Command::User) if caller.is_known() => {
                answer(&outbox, &describe(&caller, &lock(&self.shared.users)));
            }
            Ok(Command::Ls | Command::User) => outbox.fail("access denied"),
            Ok(Command::Join(join)) => match self.join(&caller, join, &outbox) {
                Ok(member) => {
                    if let Some(lane) = self.lanes.get_mut(&id) {
                        lane.member = Some(member);
                    }
                }
                Err(reason) => outbox.fail(&reason),
            },
            Err(BadCommand { explanation, reason }) => {
                outbox.say(&explanation);
                outbox.fail(&reason);
            }
        }
        tokio::spawn(sending.run());
        Ok(())
    }

    fn join(&self, caller: &Caller, join: Join, outbox: &Arc<Outbox>) -> Result<Arc<Member>, String> {
        let (empty, patience) = (join.empty, join.patience);
        let waits = join.block;
        let board = &self.shared.board;
        let (member, unblocked) = board.join(caller, join, self.peer, &self.target, outbox)?;
        for publisher in unblocked {
            flush(board, publisher);
        }
        if empty {
            // pico.sh sends one zero byte.
            board.write(&member, &[0]);
            board.end_of_input(&member);
            flush(board, Arc::clone(&member));
        }
        if waits {
            let (board, member) = (Arc::clone(board), Arc::clone(&member));
            tokio::spawn(async move {
                tokio::select! {
                    () = sleep(patience) => board.out_of_patience(&member),
                    () = member.outbox.ended() => {}
                }
            });
        }
        Ok(member)
    }

    fn member(&self, id: ChannelId) -> Option<&Arc<Member>> {
        self.lanes.get(&id)?.member.as_ref()
    }

    fn end(&self, lane: Lane) {
        if let Some(member) = &lane.member {
            self.shared.board.leave(member);
        }
        lane.outbox.finish(End::Gone);
    }
}

/// Whatever the reason for which a connection ends: its clients leave.
impl Drop for Connection {
    fn drop(&mut self) {
        for (_, lane) in std::mem::take(&mut self.lanes) {
            self.end(lane);
        }
    }
}

impl Handler for Connection {
    type Error = russh::Error;

    async fn auth_publickey(&mut self, _user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        let caller = {
            let mut users = lock(&self.shared.users);
            if let Err(error) = users.refresh() {
                log::warn!("users file: {error}; the users stay as they were");
            }
            users.caller(key.public_key)
        };
        let Some(place) = self.shared.place(&caller) else {
            log::warn!("{} ({}) turned away: too many connections", self.peer, caller.user);
            return Err(russh::Error::Disconnect);
        };
        self.place = place;
        log::info!("{} is {} ({})", self.peer, caller.user, caller.fingerprint);
        self.caller = Some(caller);
        Ok(Auth::Accept)
    }

    async fn auth_succeeded(&mut self, _session: &mut Session) -> Result<(), Self::Error> {
        self.logged_in = None;
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.lanes.retain(|_, lane| !lane.outbox.is_closed());
        self.opened += 1;
        let most = match &self.caller {
            Some(caller) if caller.is_known() => MAX_CHANNELS_OPENED,
            _ => MAX_CHANNELS_OPENED_PUBLIC,
        };
        if self.opened > most {
            log::warn!("{} closed: {most} channels opened on one connection", self.peer);
            return Err(russh::Error::Disconnect);
        }
        if self.lanes.len() >= MAX_CHANNELS {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        }
        // What comes in arrives by `data` below; the other copy would fill up, and block the connection.
        let (_, write) = channel.split();
        self.lanes
            .insert(write.id(), Lane { outbox: Arc::default(), write: Some(write), terminal: false, member: None });
        reply.accept().await;
        Ok(())
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        _term: &str,
        _col_width: u32,
        _row_height: u32,
        _pix_width: u32,
        _pix_height: u32,
        _modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        if let Some(lane) = self.lanes.get_mut(&channel) {
            lane.terminal = true;
        }
        session.channel_success(channel)
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        _name: &str,
        _value: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(channel)
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        _name: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(channel)
    }

    async fn shell_request(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), Self::Error> {
        self.start(channel, b"", session)
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        data: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.start(channel, data, session)
    }

    async fn data(&mut self, channel: ChannelId, data: &[u8], _session: &mut Session) -> Result<(), Self::Error> {
        if let Some(member) = self.member(channel) {
            let slow = self.shared.board.write(member, data);
            if !slow.is_empty() {
                self.gate.hold(Box::pin(room(slow)));
            }
        }
        Ok(())
    }

    async fn channel_eof(&mut self, channel: ChannelId, _session: &mut Session) -> Result<(), Self::Error> {
        if let Some(member) = self.member(channel) {
            self.shared.board.end_of_input(member);
            flush(&self.shared.board, Arc::clone(member));
        }
        Ok(())
    }

    async fn channel_close(&mut self, channel: ChannelId, _session: &mut Session) -> Result<(), Self::Error> {
        if let Some(lane) = self.lanes.remove(&channel) {
            self.end(lane);
        }
        Ok(())
    }
}

/// Sends what a publisher sent ahead, as fast as its readers take it.
fn flush(board: &Arc<Board>, publisher: Arc<Member>) {
    let mut slow = board.flush(&publisher);
    if slow.is_empty() {
        return;
    }
    let board = Arc::clone(board);
    tokio::spawn(async move {
        while !slow.is_empty() {
            room(slow).await;
            slow = board.flush(&publisher);
        }
    });
}

fn answer(outbox: &Outbox, text: &str) {
    outbox.say(text);
    outbox.finish(End::Exit(0));
}

/// The four lines of `user`: name, id, since when, and the end of a paid plan, which nobody has here.
fn describe(caller: &Caller, users: &Users) -> String {
    let digest = Sha256::digest(format!("p2p-hub user {}", caller.user));
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    let since = users
        .since(&caller.user)
        .map_or_else(String::new, |since| humantime::format_rfc3339_seconds(since).to_string());
    format!("{}\n{}\n{since}\n\n", caller.user, format_uuid(id, 8))
}
