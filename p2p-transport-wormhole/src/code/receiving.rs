//! The receiver's part: an offer, and what becomes of it.

use std::path::{Path, PathBuf};
use std::time::Instant;

use async_std::io::WriteExt as _;
use futures::AsyncWrite;
use rustix::fs::{CWD, RenameFlags, renameat_with, statvfs};
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use super::config::CodeConfig;
use super::content::bad_name;
use super::error::{CodeError, Stage};
use super::mailbox::Talk;
use super::message::{Answer, Confirmation, DirectoryOffer, FileOffer, Message, Offer, Transit, ZIPPED};
use super::pipe::Pipe;
use super::sending::hex;
use super::transit::Ways;
use super::{Report, zipped};
use crate::procedure::Side;

/// What the sender offers, until it is taken or refused. Dropped, it leaves the sender waiting for an answer.
pub struct Incoming {
    talk: Talk,
    config: CodeConfig,
    offered: Offered,
    transit: Option<Transit>,
    text: Option<String>,
}

/// What an offer says of itself. Names and numbers are the sender's: nothing of it is believed before it has arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offered {
    /// A text.
    Text {
        /// Its length.
        bytes: u64,
    },
    /// A file.
    File {
        /// Its name: may lead anywhere, see [`Incoming::name`].
        name: String,
        /// Its length.
        bytes: u64,
    },
    /// A folder.
    Directory {
        /// Its name: may lead anywhere, see [`Incoming::name`].
        name: String,
        /// What travels.
        zip_bytes: u64,
        /// All its files together.
        bytes: u64,
        /// How many these are.
        files: u64,
    },
}

/// Where something that arrives should be, and whether it may take the place of a file that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file or folder to be.
    pub path: PathBuf,
    /// Take the place of a file, never of a folder.
    pub replace: bool,
}

impl Incoming {
    pub(super) async fn hear(mut talk: Talk, config: CodeConfig) -> Result<Self, CodeError> {
        match hear_offer(&mut talk, &config).await {
            Ok((offer, transit)) => match Offered::of(offer) {
                Ok((offered, text)) => Ok(Self { talk, config, offered, transit, text }),
                Err(error) => Err(talk.give_up(error).await),
            },
            Err(error) => Err(talk.give_up(error).await),
        }
    }

    /// What is offered.
    pub fn offered(&self) -> &Offered {
        &self.offered
    }

    /// The name that the sender gave it, if it is one of a file or folder and leads nowhere else.
    ///
    /// # Errors
    /// [`CodeError::Unacceptable`] otherwise. It can still be taken under a name of one's own.
    pub fn name(&self) -> Result<&str, CodeError> {
        let name = match &self.offered {
            Offered::Text { .. } => "text",
            Offered::File { name, .. } | Offered::Directory { name, .. } => name,
        };
        match bad_name(name) {
            None => Ok(name),
            Some(rule) => Err(CodeError::Unacceptable(format!(
                "the sender's name for it is \"{}\", which is refused: {rule}; give it a name with -o",
                name.chars().take(80).flat_map(char::escape_default).collect::<String>()
            ))),
        }
    }

    /// Refuses it, and tells the sender why.
    pub async fn refuse(self, why: CodeError) -> CodeError {
        self.talk.give_up(why).await
    }

    /// Takes a text.
    ///
    /// # Errors
    /// When it is none, or the sender cannot be told.
    pub async fn text(mut self) -> Result<String, CodeError> {
        let Some(text) = self.text.take() else {
            let error = CodeError::Misuse("what is offered is not a text".to_owned());
            return Err(self.talk.give_up(error).await);
        };
        self.acknowledge_text().await;
        self.talk.close().await;
        Ok(text)
    }

    /// Takes whatever it is to a place, where it appears whole or not at all; a text becomes a file.
    ///
    /// # Errors
    /// [`CodeError::Exists`] when something is there that may not be replaced; whatever else went wrong. Nothing is left behind.
    pub async fn save(mut self, place: &Place, report: &mut (dyn FnMut(Report) + Send)) -> Result<(), CodeError> {
        let saved = match self.offered.clone() {
            Offered::Text { .. } => self.save_text(place).await,
            Offered::File { bytes, .. } => self.save_file(place, bytes, report).await,
            Offered::Directory { zip_bytes, bytes, files, .. } => {
                self.save_directory(place, zip_bytes, bytes, files, report).await
            }
        };
        self.end(saved).await
    }

    /// Takes a file, or a folder as its zip file, into `to` as it arrives. What was written of a transfer that failed is of no use.
    ///
    /// # Errors
    /// Whatever went wrong.
    pub async fn write_to(
        mut self,
        to: &mut (dyn AsyncWrite + Unpin + Send),
        report: &mut (dyn FnMut(Report) + Send),
    ) -> Result<(), CodeError> {
        let written = match self.size() {
            None => Err(CodeError::Misuse("a text is not written".to_owned())),
            Some(bytes) => match self.take(bytes, to, report).await {
                Ok((mut pipe, hash)) => confirm(&mut pipe, &hash).await,
                Err(error) => Err(error),
            },
        };
        self.end(written).await
    }

    fn size(&self) -> Option<u64> {
        match self.offered {
            Offered::Text { .. } => None,
            Offered::File { bytes, .. } | Offered::Directory { zip_bytes: bytes, .. } => Some(bytes),
        }
    }

    async fn end(self, result: Result<(), CodeError>) -> Result<(), CodeError> {
        match result {
            Ok(()) => {
                self.talk.close().await;
                Ok(())
            }
            Err(error) => Err(self.talk.give_up(error).await),
        }
    }

    async fn save_text(&mut self, place: &Place) -> Result<(), CodeError> {
        let folder = place.check(false)?;
        let mut file = place.temporary(folder)?;
        let text = self.text.take().unwrap_or_default();
        std::io::Write::write_all(&mut file, text.as_bytes()).map_err(|fault| place.unwritable(&fault))?;
        place.put(file)?;
        self.acknowledge_text().await;
        Ok(())
    }

    async fn acknowledge_text(&mut self) {
        let ok = Answer { message_ack: Some("ok".to_owned()), ..Answer::default() };
        // The text is here nevertheless.
        if let Err(error) = self.talk.say(&Message::answer(ok)).await {
            log::warn!("the text arrived, but the sender could not be told: {error}");
        }
    }

    async fn save_file(
        &mut self,
        place: &Place,
        bytes: u64,
        report: &mut (dyn FnMut(Report) + Send),
    ) -> Result<(), CodeError> {
        let folder = place.check(false)?;
        room(folder, bytes)?;
        let file = place.temporary(folder)?;
        let mut writer = async_std::fs::File::from(reopen(&file)?);
        let (mut pipe, hash) = self.take(bytes, &mut writer, report).await?;
        drop(writer);
        place.put(file)?;
        confirm(&mut pipe, &hash).await
    }

    async fn save_directory(
        &mut self,
        place: &Place,
        zip_bytes: u64,
        bytes: u64,
        files: u64,
        report: &mut (dyn FnMut(Report) + Send),
    ) -> Result<(), CodeError> {
        let folder = place.check(true)?;
        room(folder, zip_bytes.saturating_add(bytes))?;
        let zip = place.temporary(folder)?;
        let mut writer = async_std::fs::File::from(reopen(&zip)?);
        let (mut pipe, hash) = self.take(zip_bytes, &mut writer, report).await?;
        drop(writer);
        report(Report::Unpacking);
        let unpacked = tempfile::Builder::new().prefix(&place.prefix()).permissions(ordinary(0o777)).tempdir_in(folder);
        let unpacked = unpacked.map_err(|fault| place.unwritable(&fault))?;
        let bounds = zipped::Declared { bytes, files };
        let stop = self.config.stop.clone();
        // The folder that is not whole goes with the task, even if nobody waits for that any more.
        let unpacked = async_std::task::spawn_blocking(move || {
            zipped::unpack(zip.path(), unpacked.path(), &bounds, &stop).map(|()| unpacked)
        });
        let unpacked = unpacked.await?;
        renameat_with(CWD, unpacked.path(), CWD, &place.path, RenameFlags::NOREPLACE)
            .map_err(|fault| place.taken(&fault.into()))?;
        // It is not there any more under its old name.
        let _ = unpacked.keep();
        confirm(&mut pipe, &hash).await
    }

    /// Takes the offer, connects, and passes on the bytes.
    async fn take(
        &mut self,
        bytes: u64,
        to: &mut (dyn AsyncWrite + Unpin + Send),
        report: &mut (dyn FnMut(Report) + Send),
    ) -> Result<(Pipe, String), CodeError> {
        let ways = Ways::open(&self.config);
        self.talk.say(&Message::transit(ways.ours(&self.config))).await?;
        let ok = Answer { file_ack: Some("ok".to_owned()), ..Answer::default() };
        self.talk.say(&Message::answer(ok)).await?;
        let (within, deadline) = (self.config.waits.offer, Instant::now() + self.config.waits.offer);
        while self.transit.is_none() {
            self.transit = self.talk.hear(Stage::Transit, within, deadline).await?.transit;
        }
        let transit = self.transit.take().unwrap_or_else(|| unreachable!("the loop ends with it"));
        let mut pipe = ways.connect(&self.config, &self.talk, Side::Follower, &transit).await?;
        report(Report::Connected(pipe.path().clone()));

        let mut hash = Sha256::new();
        let mut received = 0;
        report(Report::Bytes { done: received, total: bytes });
        while received < bytes {
            let record = pipe.receive(Stage::Data, self.config.waits.stall).await?;
            received += record.len() as u64;
            if record.is_empty() || received > bytes {
                let what = if record.is_empty() { "an empty record" } else { "more than it announced" };
                return Err(CodeError::Protocol(format!("it sent {what}")));
            }
            hash.update(record);
            to.write_all(record).await.map_err(|fault| cannot_write("what arrives", &fault))?;
            report(Report::Bytes { done: received, total: bytes });
        }
        to.flush().await.map_err(|fault| cannot_write("what arrives", &fault))?;
        Ok((pipe, hex(&hash.finalize())))
    }
}

impl Offered {
    /// What an offer says, and the text if it is one.
    fn of(offer: Offer) -> Result<(Self, Option<String>), CodeError> {
        match offer {
            Offer { message: Some(text), file: None, directory: None } => {
                Ok((Self::Text { bytes: text.len() as u64 }, Some(text)))
            }
            Offer { message: None, file: Some(FileOffer { filename, filesize }), directory: None } => {
                Ok((Self::File { name: filename, bytes: filesize }, None))
            }
            Offer { message: None, file: None, directory: Some(DirectoryOffer { mode, .. }) } if mode != ZIPPED => {
                let shown: String = mode.chars().take(80).flat_map(char::escape_default).collect();
                Err(CodeError::Unacceptable(format!("the folder is packed as \"{shown}\", which is not known here")))
            }
            Offer { message: None, file: None, directory: Some(folder) } => Ok((
                Self::Directory {
                    name: folder.dirname,
                    zip_bytes: folder.zipsize,
                    bytes: folder.numbytes,
                    files: folder.numfiles,
                },
                None,
            )),
            _ => Err(CodeError::Unacceptable("the sender offers something that is not known here".to_owned())),
        }
    }
}

impl Place {
    /// Whether something may be put there; the folder in which.
    fn check(&self, is_folder: bool) -> Result<&Path, CodeError> {
        match self.path.symlink_metadata() {
            Ok(there) if there.is_dir() || is_folder || !self.replace => {
                return Err(CodeError::Exists(self.path.clone()));
            }
            _ => {}
        }
        let folder = match self.path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => return Err(CodeError::Exists(self.path.clone())),
        };
        if !folder.is_dir() {
            return Err(CodeError::CannotWrite(format!("the folder {} is not there: make it first", folder.display())));
        }
        Ok(folder)
    }

    fn prefix(&self) -> String {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        format!(".{}.p2p-", name.chars().take(32).collect::<String>())
    }

    fn temporary(&self, folder: &Path) -> Result<NamedTempFile, CodeError> {
        let file = tempfile::Builder::new().prefix(&self.prefix()).permissions(ordinary(0o666)).tempfile_in(folder);
        file.map_err(|fault| self.unwritable(&fault))
    }

    fn put(&self, file: NamedTempFile) -> Result<(), CodeError> {
        if self.replace {
            file.persist(&self.path).map_err(|fault| self.unwritable(&fault.error))?;
        } else {
            file.persist_noclobber(&self.path).map_err(|fault| self.taken(&fault.error))?;
        }
        Ok(())
    }

    fn unwritable(&self, fault: &std::io::Error) -> CodeError {
        cannot_write(&self.path.display().to_string(), fault)
    }

    /// Somebody may have been quicker.
    fn taken(&self, fault: &std::io::Error) -> CodeError {
        match fault.kind() {
            std::io::ErrorKind::AlreadyExists | std::io::ErrorKind::DirectoryNotEmpty => {
                CodeError::Exists(self.path.clone())
            }
            _ => self.unwritable(fault),
        }
    }
}

async fn hear_offer(talk: &mut Talk, config: &CodeConfig) -> Result<(Offer, Option<Transit>), CodeError> {
    let (within, deadline) = (config.waits.offer, Instant::now() + config.waits.offer);
    let mut transit = None;
    loop {
        let message = talk.hear(Stage::Offer, within, deadline).await?;
        transit = transit.or(message.transit);
        if let Some(offer) = message.offer {
            return Ok((offer, transit));
        }
    }
}

async fn confirm(pipe: &mut Pipe, hash: &str) -> Result<(), CodeError> {
    let confirmation = Confirmation { ack: "ok".to_owned(), sha256: Some(hash.to_owned()) };
    let bytes = serde_json::to_vec(&confirmation).map_err(|fault| CodeError::System(fault.to_string()))?;
    // What arrived is here and whole, whether the sender hears that or not.
    if let Err(error) = pipe.send(&bytes).await {
        log::warn!("all of it arrived, but the sender could not be told: {error}");
    }
    Ok(())
}

fn room(folder: &Path, bytes: u64) -> Result<(), CodeError> {
    // A file system that does not tell is asked by writing.
    let Ok(disk) = statvfs(folder) else { return Ok(()) };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if bytes > free {
        return Err(CodeError::CannotWrite(format!(
            "there is no room for it: {bytes} bytes are needed and {free} are free in {}",
            folder.display()
        )));
    }
    Ok(())
}

fn reopen(file: &NamedTempFile) -> Result<std::fs::File, CodeError> {
    file.as_file().try_clone().map_err(|fault| CodeError::System(format!("a file cannot be opened twice: {fault}")))
}

pub(super) fn cannot_write(what: &str, fault: &std::io::Error) -> CodeError {
    CodeError::CannotWrite(format!("{what} cannot be written: {fault}"))
}

/// The umask takes away what it takes from every new file.
fn ordinary(mode: u32) -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(mode)
}
