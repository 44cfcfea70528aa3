//! Questions, and what stands for answers where nobody can be asked.

use std::io::{ErrorKind, IsTerminal as _};
use std::sync::OnceLock;

use anyhow::Context as _;
use dialoguer::theme::ColorfulTheme;
use dialoguer::{Input, Password, Select};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// Where answers come from that the command line did not give.
pub trait Ask {
    /// A line of text; `option` is the one that answers it on the command line.
    ///
    /// # Errors
    /// When there is no answer.
    fn text(&mut self, option: &str, question: &str, default: Option<&str>) -> anyhow::Result<String>;

    /// The same, asked again until `check` is content with the answer.
    ///
    /// # Errors
    /// When there is no answer, or nobody to give another one.
    fn text_that(
        &mut self,
        option: &str,
        question: &str,
        default: Option<&str>,
        check: &dyn Fn(&str) -> Result<(), String>,
    ) -> anyhow::Result<String> {
        let answer = self.text(option, question, default)?;
        check(&answer).map_err(|error| anyhow::anyhow!("{option}: {error}"))?;
        Ok(answer)
    }

    /// The same, not shown while it is typed. An empty answer is none.
    ///
    /// # Errors
    /// When there is no answer.
    fn secret(&mut self, option: &str, question: &str) -> anyhow::Result<String>;

    /// One of `choices`; where nobody can be asked, the `default`.
    ///
    /// # Errors
    /// When there is no answer.
    fn choice(
        &mut self,
        option: &str,
        question: &str,
        choices: &[&str],
        default: Option<&str>,
    ) -> anyhow::Result<String>;
}

/// Somebody at a terminal.
#[derive(Default)]
pub struct Terminal(ColorfulTheme);

impl std::fmt::Debug for Terminal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Terminal")
    }
}

/// Nobody: defaults are the answers.
#[derive(Debug)]
pub struct Silent;

/// Whoever can be asked.
#[must_use]
pub fn whoever(is_silent: bool) -> Box<dyn Ask> {
    let is_terminal = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    if !is_terminal || is_silent {
        return Box::new(Silent);
    }
    leave_cleanly();
    Box::new(Terminal::default())
}

/// How the terminal was before the first question.
static BEFORE: OnceLock<Termios> = OnceLock::new();

/// A choice hides the cursor, and a secret what is typed; Ctrl-C must not leave it so.
fn leave_cleanly() {
    if let Ok(before) = tcgetattr(std::io::stdin()) {
        let _ = BEFORE.set(before);
    }
    std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        if runtime.is_ok_and(|runtime| runtime.block_on(tokio::signal::ctrl_c()).is_ok()) {
            leave();
        }
    });
}

fn leave() -> ! {
    if let Some(before) = BEFORE.get() {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
    }
    // The shell's prompt is not to stand behind a question.
    let terminal = dialoguer::console::Term::stderr();
    let _ = terminal.show_cursor().and_then(|()| terminal.write_line(""));
    std::process::exit(130);
}

/// What was answered. The terminal tells of a Ctrl-C at a question here, too, and may be first.
fn answered<T>(answer: dialoguer::Result<T>) -> anyhow::Result<T> {
    match answer {
        Err(dialoguer::Error::IO(error)) if error.kind() == ErrorKind::Interrupted => leave(),
        answer => Ok(answer?),
    }
}

impl Ask for Terminal {
    fn text(&mut self, option: &str, question: &str, default: Option<&str>) -> anyhow::Result<String> {
        self.text_that(option, question, default, &|_| Ok(()))
    }

    fn text_that(
        &mut self,
        _option: &str,
        question: &str,
        default: Option<&str>,
        check: &dyn Fn(&str) -> Result<(), String>,
    ) -> anyhow::Result<String> {
        let input = Input::<String>::with_theme(&self.0).with_prompt(question);
        let input = match default {
            Some(default) => input.default(default.to_owned()).allow_empty(default.is_empty()),
            None => input,
        };
        let input = input.validate_with(|answer: &String| check(answer.trim()));
        Ok(answered(input.interact_text())?.trim().to_owned())
    }

    fn secret(&mut self, _option: &str, question: &str) -> anyhow::Result<String> {
        let answer = Password::with_theme(&self.0).with_prompt(question).allow_empty_password(true);
        Ok(answered(answer.interact())?.trim().to_owned())
    }

    fn choice(
        &mut self,
        _option: &str,
        question: &str,
        choices: &[&str],
        default: Option<&str>,
    ) -> anyhow::Result<String> {
        let first = choices.iter().position(|choice| Some(*choice) == default).unwrap_or(0);
        let select = Select::with_theme(&self.0).with_prompt(question).items(choices).default(first);
        Ok(choices[answered(select.interact())?].to_owned())
    }
}

impl Ask for Silent {
    fn text(&mut self, option: &str, question: &str, default: Option<&str>) -> anyhow::Result<String> {
        default.map(str::to_owned).with_context(|| format!("{option} is missing ({question})"))
    }

    fn secret(&mut self, _option: &str, _question: &str) -> anyhow::Result<String> {
        Ok(String::new())
    }

    fn choice(
        &mut self,
        option: &str,
        question: &str,
        choices: &[&str],
        default: Option<&str>,
    ) -> anyhow::Result<String> {
        let missing = || format!("{option} is missing ({question}): {}", choices.join(", "));
        default.map(str::to_owned).with_context(missing)
    }
}
