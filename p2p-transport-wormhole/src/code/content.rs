//! What can be sent: a text, a stream of a known length, a file, a folder.

use std::io;
use std::path::{Path, PathBuf};

use async_std::io::ReadExt as _;
use futures::AsyncRead;

use super::config::Stop;
use super::error::CodeError;
use super::limits::{MESSAGE_BYTES, NAME_BYTES};
use super::message::{DirectoryOffer, FileOffer, Offer, ZIPPED};
use super::zipped;

type Body = Box<dyn AsyncRead + Send + Unpin>;

/// Something to send.
pub struct Content {
    pub(super) offer: Offer,
    /// What follows the offer, and how many bytes that is. A text has none.
    pub(super) body: Option<(u64, Body)>,
    left_out: Vec<String>,
}

impl Content {
    /// A text, shown to the receiver and not kept in a file.
    ///
    /// # Errors
    /// When it is longer than what goes through a mailbox, half a [`MESSAGE_BYTES`].
    pub fn text(text: impl Into<String>) -> Result<Self, CodeError> {
        let text = text.into();
        // In JSON a character takes more room.
        if serde_json::to_string(&text).map_or(usize::MAX, |json| json.len()) > MESSAGE_BYTES / 2 {
            let most = MESSAGE_BYTES / 2 / 1024;
            return Err(CodeError::Input(format!("a text of at most {most} KiB can be sent: send it as a file")));
        }
        Ok(Self { offer: Offer { message: Some(text), ..Offer::default() }, body: None, left_out: Vec::new() })
    }

    /// The next `size` bytes of `body`, offered as a file of this name.
    ///
    /// # Errors
    /// When no file can have this name.
    pub fn stream(name: &str, size: u64, body: impl AsyncRead + Send + Unpin + 'static) -> Result<Self, CodeError> {
        let filename = sendable(name)?;
        let offer = Offer { file: Some(FileOffer { filename, filesize: size }), ..Offer::default() };
        Ok(Self { offer, body: Some((size, Box::new(body))), left_out: Vec::new() })
    }

    /// A file, under `name` or else its own.
    ///
    /// # Errors
    /// When it cannot be read, is no regular file, or no file can have the name.
    pub async fn file(path: &Path, name: Option<&str>) -> Result<Self, CodeError> {
        let name = name_of(path, name)?;
        let file = async_std::fs::File::open(path).await.map_err(|fault| unreadable(path, &fault))?;
        let metadata = file.metadata().await.map_err(|fault| unreadable(path, &fault))?;
        if !metadata.is_file() {
            return Err(CodeError::Input(format!("{} is neither a file nor a folder", path.display())));
        }
        Self::stream(&name, metadata.len(), file)
    }

    /// A folder, packed as all clients pack it: into a zip file, which takes room in the folder for temporary files until it is sent.
    ///
    /// # Errors
    /// When something in it cannot be read or has a name that cannot travel, when it has too much in it, or there is no room.
    pub async fn directory(path: &Path, name: Option<&str>, stop: Stop) -> Result<Self, CodeError> {
        let dirname = name_of(path, name)?;
        let folder = path.to_owned();
        let packed = async_std::task::spawn_blocking(move || zipped::pack(&folder, &stop)).await?;
        let offer = DirectoryOffer {
            mode: ZIPPED.to_owned(),
            dirname,
            zipsize: packed.zip_bytes,
            numbytes: packed.bytes,
            numfiles: packed.files,
        };
        let body: Body = Box::new(async_std::fs::File::from(packed.file));
        let offer = Offer { directory: Some(offer), ..Offer::default() };
        Ok(Self { offer, body: Some((packed.zip_bytes, body)), left_out: packed.left_out })
    }

    /// Bytes that will travel.
    pub fn size(&self) -> u64 {
        match (&self.body, &self.offer.message) {
            (Some((size, _)), _) => *size,
            (None, text) => text.as_ref().map_or(0, |text| text.len() as u64),
        }
    }

    /// What of a folder is not sent, and why: links to folders or out of it, and what is neither a file nor a folder.
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }
}

/// Reads up to a whole batch; less only at the end.
pub(super) async fn read_batch(body: &mut Body, batch: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < batch.len() {
        match body.read(&mut batch[filled..]).await? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

pub(super) fn unreadable(path: &Path, fault: &io::Error) -> CodeError {
    CodeError::Input(format!("{} cannot be read: {fault}", path.display()))
}

/// Its own name, even if it is a link to something of another name or is called `.`.
fn name_of(path: &Path, name: Option<&str>) -> Result<String, CodeError> {
    if let Some(name) = name {
        return sendable(name);
    }
    let own = match path.file_name() {
        Some(name) => PathBuf::from(name),
        None => {
            let real = path.canonicalize().map_err(|fault| unreadable(path, &fault))?;
            PathBuf::from(real.file_name().unwrap_or_default())
        }
    };
    let name = own.to_str().ok_or_else(|| {
        CodeError::Input(format!("the name of {} is not UTF-8: give another one with --name", path.display()))
    })?;
    sendable(name)
}

fn sendable(name: &str) -> Result<String, CodeError> {
    match bad_name(name) {
        None => Ok(name.to_owned()),
        Some(rule) => Err(CodeError::Input(format!("nothing can be sent under the name {name:?}: {rule}"))),
    }
}

/// The rule that a name of a file or folder in a folder breaks, if it does.
pub(super) fn bad_name(name: &str) -> Option<&'static str> {
    match name {
        "" => Some("it is empty"),
        "." | ".." => Some("it means a folder"),
        _ if name.len() > NAME_BYTES => Some("it is too long"),
        _ if name.contains('/') || name.contains('\\') => Some("it leads to another folder"),
        _ if name.chars().any(char::is_control) => Some("it has a control character"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_bad() {
        for bad in ["", ".", "..", "../x", "/etc/passwd", "a/b", "a\\b", "a\nb", "a\0b", &"x".repeat(NAME_BYTES + 1)] {
            assert!(bad_name(bad).is_some(), "{bad:?}");
        }
        for good in ["file", ".hidden", "..x", "ä b", &"x".repeat(NAME_BYTES)] {
            assert!(bad_name(good).is_none(), "{good:?}");
        }
    }
}
