//! The category of the adapter's network: set to Private when Windows makes it Public, which it does with every network that it
//! cannot identify. The network shows up a while after the adapter, and at boot the service that knows of networks does as well: so
//! it is tried again, and what came of it in the end is kept for `status`.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How long it is tried: a service that starts with the system is there before Windows has settled (Tailscale waits 20 s for the
/// network of an adapter that is made later).
const LIMIT: Duration = Duration::from_secs(120);

/// Between two tries at first; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Between two tries at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What a look at the network has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Windows does not know a network of the adapter's.
    NoNetwork,
    /// It is Public; if it was told otherwise just now, the next look tells whether that counts.
    Public,
    /// It is Private, or a domain's.
    Settled,
}

/// What has become of the network's category.
#[derive(Debug, Default)]
pub struct Category(Mutex<State>);

#[derive(Debug, Default)]
enum State {
    /// Nobody has asked for another, or it is as it was asked for.
    #[default]
    Settled,
    /// A thread tries.
    Trying,
    /// It is not Private, and why.
    Failed(String),
}

impl Category {
    /// Begins to try, on a thread of its own, unless one does already.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn settle(
        self: &Arc<Self>,
        look: impl FnMut() -> io::Result<Seen> + Send + 'static,
    ) -> io::Result<()> {
        if matches!(*self.state(), State::Trying) {
            return Ok(());
        }
        *self.state() = State::Trying;
        let category = Arc::clone(self);
        let started =
            std::thread::Builder::new().name("network-category".to_owned()).spawn(move || match keep_trying(
                look,
                std::thread::sleep,
            ) {
                Ok(()) => *category.state() = State::Settled,
                Err(why) => category.failed(why),
            });
        if started.is_err() {
            *self.state() = State::Settled;
        }
        started.map(|_| ())
    }

    /// Notes that the network is not Private, and why.
    pub fn failed(&self, why: String) {
        tracing::warn!("{why}");
        *self.state() = State::Failed(why);
    }

    /// Why the network is not Private in the end.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        match &*self.state() {
            State::Failed(why) => Some(why.clone()),
            State::Settled | State::Trying => None,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks until the network is settled or the time is over; then the last reason why it is not, in words. An error ends nothing: at
/// boot the system's services refuse for a while.
fn keep_trying(
    mut look: impl FnMut() -> io::Result<Seen>,
    mut pause: impl FnMut(Duration),
) -> Result<(), String> {
    let (mut next, mut waited) = (FIRST_PAUSE, Duration::ZERO);
    loop {
        let why = match look() {
            Ok(Seen::Settled) => return Ok(()),
            Ok(Seen::Public) => "the adapter's network stays Public".to_owned(),
            Ok(Seen::NoNetwork) => "Windows shows no network of the adapter".to_owned(),
            Err(error) => format!("the category of the adapter's network cannot be set: {error}"),
        };
        if waited >= LIMIT {
            return Err(why);
        }
        tracing::debug!(why, "looked at again");
        pause(next);
        waited += next;
        next = (2 * next).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks with these answers, the last of them again and again; what came of it, and the pauses in seconds.
    fn tried(answers: &[Result<Seen, &str>]) -> (Result<(), String>, Vec<u64>) {
        let (mut count, mut pauses) = (0, Vec::new());
        let look = || {
            let answer = answers[count.min(answers.len() - 1)];
            count += 1;
            answer.map_err(io::Error::other)
        };
        let done = keep_trying(look, |pause| pauses.push(pause.as_secs()));
        (done, pauses)
    }

    #[test]
    fn an_error_or_a_network_that_is_not_there_yet_ends_nothing() {
        assert_eq!(tried(&[Ok(Seen::Settled)]), (Ok(()), vec![]));
        let late =
            [Err("not registered"), Ok(Seen::NoNetwork), Err("busy"), Ok(Seen::Public), Ok(Seen::Settled)];
        assert_eq!(tried(&late), (Ok(()), vec![1, 2, 4, 8]));
    }

    #[test]
    fn it_ends_after_two_minutes_with_the_last_reason() {
        for (last, why) in [
            (Err("access denied"), "access denied"),
            (Ok(Seen::Public), "stays Public"),
            (Ok(Seen::NoNetwork), "no network"),
        ] {
            let (done, pauses) = tried(&[Ok(Seen::NoNetwork), last]);
            assert!(done.as_ref().unwrap_err().contains(why), "{done:?}");
            assert_eq!(pauses[..6], [1, 2, 4, 8, 10, 10]);
            assert!((120..130).contains(&pauses.iter().sum::<u64>()), "{pauses:?}");
        }
    }
}
