//! The sender's part, from the moment when both are there.

use futures::FutureExt as _;
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::time::Instant;

use super::Report;
use super::config::CodeConfig;
use super::content::{Content, read_batch};
use super::error::{CodeError, Stage};
use super::mailbox::Talk;
use super::message::{Answer, Confirmation, Message, Transit};
use super::pipe::{BATCH_BYTES, Pipe};
use super::transit::Ways;
use crate::procedure::Side;

pub(super) async fn send(
    talk: &mut Talk,
    config: &CodeConfig,
    content: Content,
    report: &mut (dyn FnMut(Report) + Send),
) -> Result<(), CodeError> {
    let Some((size, mut body)) = content.body else {
        talk.say(&Message::offer(content.offer)).await?;
        let (answer, _) = hear_answer(talk, config, false).await?;
        return accepted(answer.message_ack.as_deref());
    };
    let ways = Ways::open(config);
    talk.say(&Message::transit(ways.ours(config))).await?;
    talk.say(&Message::offer(content.offer)).await?;
    let (answer, transit) = hear_answer(talk, config, true).await?;
    accepted(answer.file_ack.as_deref())?;
    let transit = transit.ok_or_else(|| CodeError::Protocol("it did not say how it can be reached".to_owned()))?;
    let mut pipe = ways.connect(config, talk, Side::Leader, &transit).await?;
    report(Report::Connected(pipe.path().clone()));

    let mut hash = Sha256::new();
    let mut batch = vec![0; BATCH_BYTES];
    let mut sent = 0;
    report(Report::Bytes { done: sent, total: size });
    while sent < size {
        let most = usize::try_from(size - sent).unwrap_or(usize::MAX).min(batch.len());
        // A file that is a pipe of somebody's may wait for ever.
        let stop = config.stop.clone().stopped().fuse();
        let count = futures::select! {
            count = read_batch(&mut body, &mut batch[..most]).fuse() => count,
            () = Box::pin(stop) => return Err(CodeError::Stopped),
        };
        let count = count.map_err(|fault| CodeError::Input(format!("what is sent cannot be read: {fault}")))?;
        if count == 0 {
            let words = format!("what is sent became shorter meanwhile: {sent} bytes are there of {size}");
            return Err(CodeError::Input(words));
        }
        hash.update(&batch[..count]);
        pipe.send(&batch[..count]).await?;
        sent += count as u64;
        report(Report::Bytes { done: sent, total: size });
    }
    confirmed(&mut pipe, config, &hex(&hash.finalize())).await
}

/// Waits for the answer, and for how the other side can be reached if that is `needed`, in whatever order they come.
async fn hear_answer(
    talk: &mut Talk,
    config: &CodeConfig,
    needed: bool,
) -> Result<(Answer, Option<Transit>), CodeError> {
    let (within, deadline) = (config.waits.answer, Instant::now() + config.waits.answer);
    let (mut answer, mut transit) = (None, None);
    while answer.is_none() || needed && transit.is_none() {
        let stage = if answer.is_none() { Stage::Answer } else { Stage::Transit };
        let message = talk.hear(stage, within, deadline).await?;
        answer = answer.or(message.answer);
        transit = transit.or(message.transit);
    }
    Ok((answer.unwrap_or_default(), transit))
}

fn accepted(word: Option<&str>) -> Result<(), CodeError> {
    match word {
        Some("ok") => Ok(()),
        Some(word) => Err(CodeError::Refused(word.chars().take(200).collect())),
        None => Err(CodeError::Protocol("its answer is not one to this offer".to_owned())),
    }
}

async fn confirmed(pipe: &mut Pipe, config: &CodeConfig, hash: &str) -> Result<(), CodeError> {
    let record = pipe.receive(Stage::Confirmation, config.waits.confirmation).await?;
    let confirmation: Confirmation = serde_json::from_slice(record)
        .map_err(|fault| CodeError::Protocol(format!("its confirmation makes no sense ({fault})")))?;
    if confirmation.ack != "ok" {
        return Err(CodeError::Refused(confirmation.ack.chars().take(200).collect()));
    }
    match confirmation.sha256 {
        Some(theirs) if theirs != hash => {
            Err(CodeError::Protocol("it received something else than was sent".to_owned()))
        }
        _ => Ok(()),
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
