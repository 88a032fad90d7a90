//! Questions to the person at the terminal.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::sync::Arc;

use p2p_transport_pico::Prompt;

/// A person, if both stdin and stderr are a terminal.
pub fn prompt() -> Option<Arc<dyn Prompt>> {
    let there = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    there.then(|| Arc::new(Person) as Arc<dyn Prompt>)
}

/// The answer to a question with yes or no; nothing where nobody sits at a terminal.
pub fn ask(question: &str) -> Option<bool> {
    prompt().map(|person| person.accept_host_key(question))
}

/// How wide lines for people are: the terminal's width, or what is read well.
pub fn width() -> usize {
    const READ_WELL: usize = 110;
    textwrap::termwidth().min(READ_WELL)
}

struct Person;

impl Prompt for Person {
    fn accept_host_key(&self, question: &str) -> bool {
        eprint!("{question} (yes/no) ");
        // A prompt that cannot be shown is answered with no, below.
        let _ = std::io::stderr().flush();
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).is_ok() && answer.trim().eq_ignore_ascii_case("yes")
    }

    fn passphrase(&self, key_file: &Path) -> Option<String> {
        let question = format!("Passphrase for {}: ", key_file.display());
        rpassword::prompt_password(question).ok().filter(|passphrase| !passphrase.is_empty())
    }
}
