//! Ordinary Magic Wormhole file transfer: two people, one code, one file, folder or text.
//!
//! ```text
//! sender    CodeTransport::open -> Meeting, which has the code -> Meeting::send
//! receiver  CodeTransport::join with that code -> Meeting -> Meeting::receive -> Incoming -> save, write_to, text or refuse
//! ```
//!
//! Every client of Magic Wormhole can be the other side. The mailbox, where the two find each other and agree on a key, is
//! `magic-wormhole`'s; what they say there is in `message`, the connection is the link's own race under the
//! [procedure](crate::procedure), and what goes over it is in `records`. The crate's own transfer does not do:
//! it knows neither texts nor folders, waits without an end, and believes announced lengths.
//!
//! Every wait ends, and with it the transfer: [`Waits`] says when. Whatever goes wrong on one side is told to the other.

mod config;
mod content;
mod error;
pub mod limits;
mod mailbox;
mod message;
mod pipe;
mod receiving;
mod records;
mod sending;
mod transit;
mod zipped;

use std::fmt;
use std::str::FromStr;

use magic_wormhole::transfer::AppVersion;
use magic_wormhole::uri::WormholeTransferUri;
use magic_wormhole::{MailboxConnection, ParseCodeError};
use p2p_proto::link::LinkPath;

pub use config::{CodeConfig, MailboxAddress, PUBLIC_MAILBOX, Stop, Waits};
pub use content::Content;
pub use error::{CodeError, Stage};
pub use receiving::{Incoming, Offered, Place};

use limits::CODE_BYTES;
use mailbox::Talk;

/// Sends and receives under codes.
#[derive(Clone, Debug)]
pub struct CodeTransport {
    config: CodeConfig,
}

/// A code whose mailbox is open, until both sides are there. Dropped, it leaves the mailbox to the server to clean up.
pub struct Meeting {
    config: CodeConfig,
    code: Code,
    mailbox: MailboxConnection<AppVersion>,
}

/// How a transfer goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// The two are connected.
    Connected(LinkPath),
    /// So many bytes have passed.
    Bytes {
        /// So far.
        done: u64,
        /// When it is over.
        total: u64,
    },
    /// All of a folder has arrived, and is unpacked.
    Unpacking,
}

impl CodeTransport {
    /// Transfers of this kind.
    pub fn new(config: CodeConfig) -> Self {
        Self { config }
    }

    /// Opens a mailbox under a new code of a number and two words.
    ///
    /// # Errors
    /// [`CodeError::Mailbox`] when the server cannot be reached.
    pub async fn open(&self) -> Result<Meeting, CodeError> {
        let mailbox = mailbox::open(&self.config, None, false).await?;
        let code = Code(mailbox.code().clone());
        Ok(Meeting { config: self.config.clone(), code, mailbox })
    }

    /// Opens the mailbox of this code, whether the other side has done so already or not.
    ///
    /// # Errors
    /// [`CodeError::Mailbox`] when the server cannot be reached, [`CodeError::Crowded`] when two others are there.
    pub async fn join(&self, code: &Code) -> Result<Meeting, CodeError> {
        self.enter(code, false).await
    }

    /// Enters the mailbox of this code if the other side has opened it already.
    ///
    /// # Errors
    /// [`CodeError::NotInUse`] when it has not; a server that lists no mailboxes lets it seem so. As for [`CodeTransport::join`].
    pub async fn join_open(&self, code: &Code) -> Result<Meeting, CodeError> {
        self.enter(code, true).await
    }

    async fn enter(&self, code: &Code, must_exist: bool) -> Result<Meeting, CodeError> {
        let mailbox = mailbox::open(&self.config, Some(code), must_exist).await?;
        Ok(Meeting { config: self.config.clone(), code: code.clone(), mailbox })
    }
}

impl Meeting {
    /// What to tell the other side.
    pub fn code(&self) -> &Code {
        &self.code
    }

    /// Waits for the receiver and sends. When it returns, the receiver has confirmed that all of it arrived.
    ///
    /// # Errors
    /// Whatever went wrong; the other side is told, where it can be.
    pub async fn send(self, content: Content, report: &mut (dyn FnMut(Report) + Send)) -> Result<(), CodeError> {
        let mut talk = Talk::join(self.mailbox, &self.config).await?;
        match sending::send(&mut talk, &self.config, content, report).await {
            Ok(()) => {
                talk.close().await;
                Ok(())
            }
            Err(error) => Err(talk.give_up(error).await),
        }
    }

    /// Waits for the sender, and for what is offered.
    ///
    /// # Errors
    /// Whatever went wrong; the other side is told, where it can be.
    pub async fn receive(self) -> Result<Incoming, CodeError> {
        let talk = Talk::join(self.mailbox, &self.config).await?;
        Incoming::hear(talk, self.config).await
    }

    /// Leaves before anyone came, so that the code's number is free again.
    pub async fn leave(self) {
        mailbox::leave(self.mailbox).await;
    }
}

/// A code: a number, which names the mailbox, and words, which only the two know.
///
/// Words that can be guessed easily are refused, since whoever guesses them gets the file: there is one guess for each run of either side, and two
/// words of the usual list make it one in 65,536. It prints as nothing (`Debug`), being a secret; `Display` shows it.
///
/// ```
/// use p2p_transport_wormhole::code::Code;
///
/// let code: Code = "7-guitarist-revenge".parse().unwrap();
/// assert_eq!(code.to_string(), "7-guitarist-revenge");
/// assert!("7-aaaa".parse::<Code>().is_err());
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Code(magic_wormhole::Code);

impl std::fmt::Debug for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Code(..)")
    }
}

impl Code {
    /// The same as a link, for a QR code. Telephones open it; `p2p receive` takes it too.
    pub fn link(&self, mailbox: &MailboxAddress) -> String {
        let mut link = WormholeTransferUri::new(self.0.clone());
        if mailbox.url() != PUBLIC_MAILBOX {
            link.rendezvous_server = mailbox.url().parse().ok();
        }
        link.to_string()
    }

    /// A code, or a link as [`Code::link`] makes it, which may name a mailbox server.
    ///
    /// # Errors
    /// [`CodeError::Misuse`], saying what is wrong with it.
    pub fn from_link(text: &str) -> Result<(Self, Option<MailboxAddress>), CodeError> {
        if !text.starts_with("wormhole-transfer:") {
            return Ok((text.parse()?, None));
        }
        if text.len() > 4 * CODE_BYTES {
            return Err(CodeError::Misuse("the link is too long to be one of a code".to_owned()));
        }
        let wrong = |fault: &dyn fmt::Display| CodeError::Misuse(format!("the link {text:?} cannot be used: {fault}"));
        let link: WormholeTransferUri = text.parse().map_err(|fault| wrong(&fault))?;
        if link.is_leader {
            return Err(wrong(&"it asks for something to be sent, not received"));
        }
        let mailbox = link.rendezvous_server.map(|server| server.as_str().parse()).transpose()?;
        Ok((link.code.to_string().parse()?, mailbox))
    }
}

impl FromStr for Code {
    type Err = CodeError;

    fn from_str(text: &str) -> Result<Self, CodeError> {
        let wrong = |why: &str| {
            let shown: String = text.chars().take(40).flat_map(char::escape_default).collect();
            CodeError::Misuse(format!("\"{shown}\" cannot be a code: {why}; a code looks like 7-guitarist-revenge"))
        };
        let text = text.trim();
        if text.len() > CODE_BYTES {
            return Err(wrong("it is too long"));
        }
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(wrong("it has blanks in it"));
        }
        if !text.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(wrong("it does not begin with a number"));
        }
        text.parse().map(Self).map_err(|fault| match fault {
            ParseCodeError::Password(_) => {
                wrong("what follows the number is too easy to guess, so that a stranger could take what is sent")
            }
            fault => wrong(&fault.to_string()),
        })
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_are_easy_to_guess_are_refused() {
        // The older R package's codes are numbers, 12 hex digits and a letter. Without the letter, some digits look like a word and
        // a number in a row to the judge of passwords; digits as they fall do not.
        for good in
            ["7-guitarist-revenge", "1234-abcdef012345-f", "1234-abcdef012345-r", "1-8f0a93bd5c17", " 3-a9c-zz7w-qq "]
        {
            assert!(good.parse::<Code>().is_ok(), "{good}");
        }
        for (bad, why) in [
            ("1234-abcdef012345", "too easy to guess"),
            ("7-aaaaaaaaaaaa", "too easy to guess"),
            ("7-ab", "too easy to guess"),
            ("7", "at least one '-'"),
            ("", "begin with a number"),
            ("-guitarist-revenge", "begin with a number"),
            ("0-guitarist-revenge", "must be a number >= 1"),
            ("7 guitarist-revenge", "blanks"),
            ("7x-guitarist-revenge", "not a number"),
        ] {
            let error = bad.parse::<Code>().unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("looks like 7-guitarist-revenge"), "{bad}: {error}");
        }
        let long = format!("7-{}", "guitarist-revenge-".repeat(CODE_BYTES / 16));
        assert!(long.parse::<Code>().unwrap_err().to_string().contains("too long"));
    }

    #[test]
    fn a_code_travels_as_a_link() {
        let code: Code = "7-guitarist-revenge".parse().unwrap();
        let public: MailboxAddress = PUBLIC_MAILBOX.parse().unwrap();
        assert_eq!(code.link(&public), "wormhole-transfer:7-guitarist-revenge");
        assert_eq!(Code::from_link(&code.link(&public)).unwrap(), (code.clone(), None));
        let own: MailboxAddress = "ws://127.0.0.1:4000".parse().unwrap();
        assert_eq!(Code::from_link(&code.link(&own)).unwrap(), (code.clone(), Some(own)));
        assert_eq!(Code::from_link("7-guitarist-revenge").unwrap().0, code);
        for wrong in [
            "wormhole-transfer:7",
            "wormhole-transfer:7-guitarist-revenge?role=leader",
            "wormhole-transfer:7-guitarist-revenge?rendezvous=http%3A%2F%2Fx",
        ] {
            assert!(Code::from_link(wrong).is_err(), "{wrong}");
        }
    }
}
