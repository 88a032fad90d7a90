//! The mailbox: where the two find each other by the code, agree on a key, and talk before they are connected.
//!
//! The server, the key exchange and the encryption of what is said are `magic-wormhole`'s. It knows no time limits, panics when a server
//! ends the connection at the wrong moment or a peer numbers its messages oddly, and would compute for ever on a server's demand; so
//! every step is bounded, a panic becomes an error, and what computes has a task of its own.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::time::{Duration, Instant};

use async_io::Timer;
use futures::FutureExt as _;
use futures::future::{self, Either};
use magic_wormhole::rendezvous::RendezvousError;
use magic_wormhole::transfer::{APP_CONFIG, AppVersion};
use magic_wormhole::transit::TransitKey as TransitPurpose;
use magic_wormhole::{AppConfig, MailboxConnection, Mood, Wormhole, WormholeError};
use p2p_proto::link::TransitKey;

use super::Code;
use super::config::{CodeConfig, Stop};
use super::error::{CodeError, Stage, chain};
use super::limits::{GOODBYE, MESSAGES, REASON};
use super::message::Message;

/// Words of a new code: with two, one guess in 65,536 is right, and there is one guess.
const WORDS: usize = 2;

type Mailbox = MailboxConnection<AppVersion>;

/// Waits for `future` no longer than `within`, and not once `stop` says so.
pub(super) async fn bounded<T>(
    stop: &Stop,
    within: Duration,
    late: impl FnOnce() -> CodeError,
    future: impl Future<Output = T>,
) -> Result<T, CodeError> {
    let stopped = pin!(stop.clone().stopped());
    let end = future::select(stopped, Timer::after(within));
    match future::select(pin!(future), end).await {
        Either::Left((value, _)) => Ok(value),
        Either::Right((Either::Left(_), _)) => Err(CodeError::Stopped),
        Either::Right((Either::Right(_), _)) => Err(late()),
    }
}

/// Opens a mailbox: a new one, or that of `code`. With `must_exist` it must be open already.
pub(super) async fn open(config: &CodeConfig, code: Option<&Code>, must_exist: bool) -> Result<Mailbox, CodeError> {
    let server = config.mailbox.to_string();
    let app = AppConfig { rendezvous_url: server.clone().into(), ..APP_CONFIG };
    let code = code.map(|code| code.0.clone());
    let asked = server.clone();
    // A server may demand a computation before it lets anyone in: only waiting for it can be ended.
    let opening = async_std::task::spawn(async move {
        let open = async {
            match code {
                None => Mailbox::create(app, WORDS).await,
                Some(code) => Mailbox::connect(app, code, !must_exist).await,
            }
        };
        guarded(&asked, open).await
    });
    let late = || unanswered(&server, config.waits.mailbox);
    bounded(&config.stop, config.waits.mailbox, late, opening).await?
}

/// The conversation with the other side. It ends with [`Talk::close`] or [`Talk::give_up`].
pub(super) struct Talk {
    /// Gone once it panicked.
    wormhole: Option<Wormhole>,
    server: String,
    heard: usize,
    mailbox_wait: Duration,
    stop: Stop,
}

impl Talk {
    /// Waits for the other side, and agrees on a key with it.
    pub(super) async fn join(mailbox: Mailbox, config: &CodeConfig) -> Result<Self, CodeError> {
        let server = config.mailbox.to_string();
        let within = config.waits.join;
        let late = || CodeError::Silent { stage: Stage::Join, within };
        let joined = guarded(&server, Wormhole::connect(mailbox));
        let wormhole = bounded(&config.stop, within, late, joined).await??;
        let (mailbox_wait, stop) = (config.waits.mailbox, config.stop.clone());
        Ok(Self { wormhole: Some(wormhole), server, heard: 0, mailbox_wait, stop })
    }

    /// The key of the connection to come.
    pub(super) fn transit_key(&self) -> Result<TransitKey, CodeError> {
        let wormhole = self.wormhole.as_ref().ok_or_else(|| broken(&self.server))?;
        let purpose = format!("{}/transit-key", wormhole.appid());
        let key = wormhole.key().derive_subkey_from_purpose::<TransitPurpose>(&purpose);
        let bytes: &[u8] = key.as_ref();
        let bytes = bytes.try_into().map_err(|_| CodeError::System("a key of an odd length".to_owned()))?;
        Ok(TransitKey(bytes))
    }

    pub(super) async fn say(&mut self, message: &Message) -> Result<(), CodeError> {
        let within = self.mailbox_wait;
        let stop = self.stop.clone();
        self.say_within(message, within, &stop).await
    }

    /// What the other side says next.
    ///
    /// # Errors
    /// [`CodeError::Silent`] when it does not by `deadline`, [`CodeError::Refused`] when it gives up.
    pub(super) async fn hear(
        &mut self,
        stage: Stage,
        within: Duration,
        deadline: Instant,
    ) -> Result<Message, CodeError> {
        let stop = self.stop.clone();
        self.hear_within(stage, within, deadline, &stop).await
    }

    /// Both are content.
    pub(super) async fn close(mut self) {
        if let Some(wormhole) = self.wormhole.take() {
            let never = Stop::never();
            let goodbye = guarded(&self.server, wormhole.close());
            let closed = bounded(&never, GOODBYE, || broken(&self.server), goodbye).await;
            if let Err(error) = closed.and_then(|result| result) {
                log::debug!("the mailbox was left without a word: {error}");
            }
        }
    }

    /// Something went wrong here: tells the other side what, or asks it what happened to a connection that broke.
    pub(super) async fn give_up(mut self, mut error: CodeError) -> CodeError {
        let never = Stop::never();
        match &error {
            CodeError::Refused(_) | CodeError::Mailbox { .. } => {}
            CodeError::Lost(_) => {
                let asked = self.hear_within(Stage::Data, REASON, Instant::now() + REASON, &never).await;
                if let Err(reason @ CodeError::Refused(_)) = asked {
                    error = reason;
                }
            }
            _ => {
                let told = Message::error(words_for_the_other_side(&error));
                if let Err(fault) = self.say_within(&told, GOODBYE, &never).await {
                    log::debug!("the other side was not told: {fault}");
                }
            }
        }
        self.close().await;
        error
    }

    async fn say_within(&mut self, message: &Message, within: Duration, stop: &Stop) -> Result<(), CodeError> {
        let server = self.server.clone();
        let mut wormhole = self.wormhole.take().ok_or_else(|| broken(&server))?;
        let said =
            bounded(stop, within, || unanswered(&server, within), guarded(&server, wormhole.send(message.to_bytes())));
        let said = said.await;
        self.keep(wormhole, &said);
        said?
    }

    async fn hear_within(
        &mut self,
        stage: Stage,
        within: Duration,
        deadline: Instant,
        stop: &Stop,
    ) -> Result<Message, CodeError> {
        self.heard += 1;
        if self.heard > MESSAGES {
            return Err(CodeError::Protocol(format!("it sent more than {MESSAGES} messages")));
        }
        let server = self.server.clone();
        let mut wormhole = self.wormhole.take().ok_or_else(|| broken(&server))?;
        let left = deadline.saturating_duration_since(Instant::now());
        let late = || CodeError::Silent { stage, within };
        let heard = bounded(stop, left, late, guarded(&server, wormhole.receive())).await;
        self.keep(wormhole, &heard);
        let message = Message::parse(&heard??).map_err(CodeError::Protocol)?;
        match message.error {
            Some(words) => Err(CodeError::Refused(words.chars().take(1000).collect())),
            None => Ok(message),
        }
    }

    /// What panicked or broke is not used again.
    fn keep<T>(&mut self, wormhole: Wormhole, result: &Result<Result<T, CodeError>, CodeError>) {
        if !matches!(result, Ok(Err(CodeError::Mailbox { .. }))) {
            self.wormhole = Some(wormhole);
        }
    }
}

/// Leaves a mailbox where nobody came.
pub(super) async fn leave(mailbox: Mailbox) {
    let goodbye = pin!(AssertUnwindSafe(mailbox.shutdown(Mood::Lonely)).catch_unwind());
    if let Either::Right(_) = future::select(goodbye, Timer::after(GOODBYE)).await {
        log::debug!("the mailbox server did not answer the goodbye");
    }
}

/// Makes errors of this module's kind of what the crate answers, panics included.
async fn guarded<T>(server: &str, step: impl Future<Output = Result<T, WormholeError>>) -> Result<T, CodeError> {
    match AssertUnwindSafe(step).catch_unwind().await {
        Ok(result) => result.map_err(|error| of_wormhole(server, error)),
        Err(_panic) => Err(broken(server)),
    }
}

fn of_wormhole(server: &str, error: WormholeError) -> CodeError {
    match error {
        WormholeError::PakeFailed => CodeError::WrongCode,
        WormholeError::UnclaimedNameplate(_) => CodeError::NotInUse,
        WormholeError::ServerError(RendezvousError::Server(words)) if words.contains("crowded") => CodeError::Crowded,
        WormholeError::ServerError(RendezvousError::IO(fault)) => CodeError::Mailbox {
            server: server.to_owned(),
            words: format!("cannot be reached, or ended the connection ({})", chain(&*fault)),
        },
        WormholeError::ServerError(fault) => {
            CodeError::Mailbox { server: server.to_owned(), words: format!("did not do its part ({})", chain(&fault)) }
        }
        WormholeError::CodeInvalid(fault) => CodeError::Misuse(format!("the code cannot be used: {fault}")),
        error => CodeError::Protocol(chain(&error)),
    }
}

fn unanswered(server: &str, within: Duration) -> CodeError {
    CodeError::Mailbox { server: server.to_owned(), words: format!("did not answer within {} s", within.as_secs_f32()) }
}

fn broken(server: &str) -> CodeError {
    let words = "ended the connection, or passed on what is no message".to_owned();
    CodeError::Mailbox { server: server.to_owned(), words }
}

/// Nothing of this machine's files and folders.
fn words_for_the_other_side(error: &CodeError) -> String {
    match error {
        CodeError::Stopped => "stopped by the other side".to_owned(),
        CodeError::Input(_) => "what is sent cannot be read any more".to_owned(),
        CodeError::CannotWrite(_) | CodeError::Exists(_) => "it cannot be written there".to_owned(),
        CodeError::Unreachable(_) => "no connection came about".to_owned(),
        CodeError::System(_) => "something failed there".to_owned(),
        error => error.to_string(),
    }
}
