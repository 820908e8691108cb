//! What is seen of the demo: one line per step, alive on a terminal, plain elsewhere, or one JSON document.

use crate::exit::Failure;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::cell::RefCell;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// The version of the JSON: fields may be added, not renamed.
const VERSION: u32 = 1;

/// Columns that a step's name gets.
const NAME: usize = 44;

/// Back to the first column, and the line cleared (ECMA-48 EL).
const AFRESH: &str = "\r\x1b[2K";

/// How it looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// A terminal: the step that runs is seen, and then replaced by what came of it.
    Terminal {
        /// Ticks are green and crosses red.
        color: bool,
    },
    /// A line per step that has ended.
    Plain,
    /// One document at the end.
    Json,
}

impl Look {
    /// What standard output is fit for.
    pub fn of_stdout(json: bool) -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        match (json, std::io::stdout().is_terminal() && !dumb) {
            (true, _) => Self::Json,
            // https://no-color.org: set and not empty.
            (false, true) => {
                Self::Terminal { color: std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) }
            }
            (false, false) => Self::Plain,
        }
    }
}

/// Why the demo does not go on.
#[derive(Debug, PartialEq, Eq)]
pub enum Broken {
    /// A step did not hold, with what happened.
    Failed(String),
    /// Ctrl-C.
    Interrupted,
}

impl Broken {
    /// A step that did not hold.
    pub fn failed(what: impl Into<String>) -> Self {
        Self::Failed(what.into())
    }
}

impl From<std::io::Error> for Broken {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure.text)
    }
}

/// What a step measured.
#[derive(Debug, Default)]
pub struct Measured {
    /// In words.
    pub text: String,
    values: Map<String, Value>,
}

impl Measured {
    /// In words.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), values: Map::new() }
    }

    /// And for programs; the unit is in the name.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.values.insert(name.to_owned(), value.into());
        self
    }
}

/// Milliseconds, to the microsecond.
pub fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// A step that has ended.
#[derive(Debug, Serialize)]
struct Step {
    name: String,
    ok: bool,
    text: String,
    seconds: f64,
    measured: Map<String, Value>,
}

/// How far a step is, seen on a terminal only.
pub struct Progress<'a, W> {
    out: RefCell<&'a mut W>,
    look: Look,
    name: &'a str,
}

impl<W: Write> Progress<'_, W> {
    /// Replaces what the line says.
    pub fn say(&self, text: &str) {
        if let Look::Terminal { .. } = self.look {
            let mut out = self.out.borrow_mut();
            let _ = write!(out, "{AFRESH}{}", line("…", self.name, text));
            let _ = out.flush();
        }
    }
}

/// The demo as it is seen.
#[derive(Debug)]
pub struct Show<W> {
    look: Look,
    out: W,
    steps: Vec<Step>,
    commands: Vec<String>,
    told: bool,
}

impl<W: Write> Show<W> {
    /// Nothing is seen yet.
    pub fn new(look: Look, out: W) -> Self {
        Self { look, out, steps: Vec::new(), commands: Vec::new(), told: false }
    }

    /// Text for eyes. A reader that has gone is no reason to stop.
    pub fn say(&mut self, text: &str) {
        if self.look != Look::Json {
            let _ = self.out.write_all(text.as_bytes());
            let _ = self.out.flush();
        }
    }

    /// Does a step, and shows it.
    ///
    /// # Errors
    /// What `work` fails with.
    pub fn step(
        &mut self,
        name: &str,
        work: impl FnOnce(&Progress<'_, W>) -> Result<Measured, Broken>,
    ) -> Result<(), Broken> {
        let start = Instant::now();
        let progress = Progress { out: RefCell::new(&mut self.out), look: self.look, name };
        progress.say("");
        let outcome = work(&progress);
        let seconds = start.elapsed().as_secs_f64();
        let (text, measured) = match &outcome {
            Ok(measured) => (measured.text.clone(), measured.values.clone()),
            Err(Broken::Failed(why)) => (why.clone(), Map::new()),
            Err(Broken::Interrupted) => ("interrupted".to_owned(), Map::new()),
        };
        let shown = ended(self.look, &outcome, name, &text);
        self.say(&shown);
        let ok = outcome.is_ok();
        self.steps.push(Step { name: name.to_owned(), ok, text, seconds, measured });
        outcome.map(|_| ())
    }

    /// The commands to try while it stays up. A program is told here: it would wait for the end in vain.
    pub fn invite(&mut self, commands: Vec<String>) {
        self.commands = commands;
        self.document(None);
    }

    /// The last line: all held, or why it ended.
    pub fn close(&mut self, why: Option<&str>) {
        // Of the steps: with --keep most of the time is somebody else's.
        let seconds = self.seconds();
        let text = match why {
            None => format!(
                "\nEvery step held: {} steps in {seconds:.1} s. Nothing is left behind.\n",
                self.steps.len()
            ),
            Some(why) => format!("\nThe demo ended after {seconds:.1} s: {why}\n"),
        };
        self.say(&text);
        self.document(why);
    }

    fn seconds(&self) -> f64 {
        self.steps.iter().map(|step| step.seconds).sum()
    }

    /// Told once: at the invitation or at the end.
    fn document(&mut self, error: Option<&str>) {
        if self.look != Look::Json || std::mem::replace(&mut self.told, true) {
            return;
        }
        let document = json!({
            "version": VERSION,
            "ok": error.is_none(),
            "error": error,
            "seconds": self.seconds(),
            "steps": self.steps,
            "commands": self.commands,
        });
        let _ = writeln!(self.out, "{document:#}");
        let _ = self.out.flush();
    }
}

/// A step that has ended, as a line.
fn ended(look: Look, outcome: &Result<Measured, Broken>, name: &str, text: &str) -> String {
    let (word, sign, color) = match outcome {
        Ok(_) => ("ok    ", "✓", 32),
        Err(Broken::Failed(_)) => ("FAILED", "✗", 31),
        Err(Broken::Interrupted) => ("ended ", "-", 33),
    };
    match look {
        Look::Terminal { color: true } => {
            format!("{AFRESH}{}\n", line(&format!("\x1b[{color}m{sign}\x1b[0m"), name, text))
        }
        Look::Terminal { color: false } => format!("{AFRESH}{}\n", line(sign, name, text)),
        Look::Plain => format!("{}\n", line(word, name, text)),
        Look::Json => String::new(),
    }
}

fn line(mark: &str, name: &str, text: &str) -> String {
    format!("  {mark} {name:NAME$}  {text}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn played(look: Look) -> (Vec<Result<(), Broken>>, String) {
        let mut show = Show::new(look, Vec::new());
        let first = show.step("gateway answers", |progress| {
            progress.say("1 of 5");
            Ok(Measured::new("5 of 5, 0.1 ms").with("rtt_ms", 0.1))
        });
        let second = show.step("listener refused", |_| Err(Broken::failed("it was reached")));
        show.close(Some("it was reached"));
        (vec![first, second], String::from_utf8(show.out).unwrap())
    }

    #[test]
    fn without_a_terminal_each_step_is_one_plain_line() {
        let (outcomes, seen) = played(Look::Plain);
        assert_eq!(outcomes, [Ok(()), Err(Broken::failed("it was reached"))]);
        let lines: Vec<_> = seen.lines().collect();
        assert_eq!(lines[0], format!("  ok     {:44}  5 of 5, 0.1 ms", "gateway answers"));
        assert_eq!(lines[1], format!("  FAILED {:44}  it was reached", "listener refused"));
        assert!(seen.is_ascii(), "no escape and no tick: {seen}");
        assert!(lines[3].starts_with("The demo ended after ") && lines[3].ends_with(": it was reached"));
    }

    #[test]
    fn on_a_terminal_a_step_is_seen_before_it_ends_and_replaced_then() {
        let (_, seen) = played(Look::Terminal { color: false });
        let first = seen.split('\n').next().unwrap();
        let drawn: Vec<_> =
            first.split(AFRESH).map(|part| part.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            drawn,
            ["", "… gateway answers", "… gateway answers 1 of 5", "✓ gateway answers 5 of 5, 0.1 ms"]
        );
        let (_, colored) = played(Look::Terminal { color: true });
        assert!(colored.contains("\x1b[32m✓\x1b[0m") && colored.contains("\x1b[31m✗\x1b[0m"));
    }

    #[test]
    fn for_programs_there_is_one_document_with_every_measurement() {
        let (_, seen) = played(Look::Json);
        let document: Value = serde_json::from_str(&seen).unwrap();
        assert_eq!((&document["version"], &document["ok"]), (&json!(1), &json!(false)));
        assert_eq!(document["error"], "it was reached");
        assert_eq!(document["steps"][0]["measured"]["rtt_ms"], 0.1);
        assert_eq!(document["steps"][1]["ok"], false);
    }

    #[test]
    fn a_program_is_told_when_the_demo_stays_up_and_not_twice() {
        let mut show = Show::new(Look::Json, Vec::new());
        show.invite(vec!["ping".to_owned()]);
        show.close(None);
        let document: Value = serde_json::from_slice(&show.out).unwrap();
        assert_eq!(document["commands"], json!(["ping"]));
    }
}
