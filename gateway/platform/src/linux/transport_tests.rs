//! What a kernel may do with a run of datagrams that the one of the test machine does not: a double of it, by script.

use super::*;
use std::cell::RefCell;

/// What the kernel does with one call.
#[derive(Clone, Copy)]
enum Does {
    Takes(usize),
    Says(i32),
}
use Does::{Says, Takes};

/// A kernel that follows a script, and takes everything once that is over.
struct Scripted {
    script: RefCell<Vec<Does>>,
    /// It refuses trains for ever, with this.
    no_trains: Option<i32>,
    sent: RefCell<Vec<u8>>,
    trains: RefCell<usize>,
    waits: RefCell<usize>,
}

impl Scripted {
    fn new(script: &[Does]) -> Self {
        Self {
            script: RefCell::new(script.iter().rev().copied().collect()),
            no_trains: None,
            sent: RefCell::default(),
            trains: RefCell::default(),
            waits: RefCell::default(),
        }
    }
}

impl Kernel for Scripted {
    fn send<'a>(&self, messages: impl Iterator<Item = Message<'a>>) -> io::Result<usize> {
        let messages: Vec<_> = messages.take(MAX_MESSAGES).collect();
        if let (Some(code), Some(Message { stride: Some(_), .. })) = (self.no_trains, messages.first()) {
            *self.trains.borrow_mut() += 1;
            return Err(io::Error::from_raw_os_error(code));
        }
        let takes = |message: &Message<'_>| self.no_trains.is_none() || message.stride.is_none();
        let ready = messages.iter().take_while(|message| takes(message)).count();
        let taken = match self.script.borrow_mut().pop() {
            Some(Says(code)) => return Err(io::Error::from_raw_os_error(code)),
            Some(Takes(most)) => most.min(ready),
            None => ready,
        };
        for message in messages.iter().take(taken) {
            let stride = message.stride.map_or(message.bytes.len(), usize::from);
            self.sent.borrow_mut().extend(message.bytes.chunks(stride).map(|datagram| datagram[0]));
        }
        Ok(taken)
    }

    fn wait(&self) -> io::Result<()> {
        *self.waits.borrow_mut() += 1;
        Ok(())
    }
}

/// Runs of three equal datagrams to each of `runs` destinations in turn, each datagram with its number in front.
fn batch(runs: u8) -> DatagramBatch {
    let mut batch = DatagramBatch::with_capacity(64 << 10, 1024);
    for n in 0..runs * 3 {
        assert!(batch.push(([192, 0, 2, n / 3], 4000).into(), &[n; 100]));
    }
    batch
}

fn send(kernel: &Scripted, trains: &Trains, runs: u8) -> (usize, TransportErrors) {
    let (batch, counters) = (batch(runs), Counters::default());
    let sent = trains.send_run(&batch, 0..batch.len(), &counters, kernel).unwrap();
    (sent, counters.read())
}

#[test]
fn what_the_kernel_leaves_of_a_call_is_sent_by_the_next_ones_in_order() {
    let kernel = Scripted::new(&[Takes(1), Takes(2), Says(libc::EINTR), Takes(1)]);
    assert_eq!(send(&kernel, &Trains::new(true), 10), (30, TransportErrors::default()));
    assert_eq!(*kernel.sent.borrow(), (0..30).collect::<Vec<_>>());
}

#[test]
fn a_full_socket_is_waited_for_and_what_it_does_not_take_is_counted() {
    for code in [libc::EAGAIN, libc::ENOBUFS] {
        let kernel = Scripted::new(&[Takes(1), Says(code), Says(code), Takes(1)]);
        assert_eq!(send(&kernel, &Trains::new(true), 4), (12, TransportErrors::default()));
        assert_eq!(*kernel.waits.borrow(), 2);
        let kernel = Scripted::new(&[Takes(1), Says(code), Says(code), Says(code), Says(code)]);
        let errors = TransportErrors { no_buffer: 9, ..TransportErrors::default() };
        assert_eq!(send(&kernel, &Trains::new(true), 4), (3, errors));
        assert_eq!(*kernel.sent.borrow(), [0, 1, 2]);
    }
}

#[test]
fn a_full_socket_is_waited_for_by_a_single_datagram_as_well() {
    for code in [libc::EAGAIN, libc::ENOBUFS] {
        let kernel = Scripted::new(&[Says(code), Says(libc::EINTR), Says(code), Takes(1)]);
        send_patiently(&kernel, ([192, 0, 2, 1], 4000).into(), &[7; 100]).unwrap();
        assert_eq!((kernel.sent.take(), kernel.waits.take()), (vec![7], 2));
        let kernel = Scripted::new(&[Says(code); 4]);
        let error = send_patiently(&kernel, ([192, 0, 2, 1], 4000).into(), &[7; 100]).unwrap_err();
        assert_eq!((error.raw_os_error(), kernel.waits.take()), (Some(code), FULL_RETRIES as usize));
    }
    let kernel = Scripted::new(&[Says(libc::EMSGSIZE)]);
    let error = send_patiently(&kernel, ([192, 0, 2, 1], 4000).into(), &[7; 100]).unwrap_err();
    assert_eq!((error.raw_os_error(), kernel.waits.take()), (Some(libc::EMSGSIZE), 0));
}

#[test]
fn a_kernel_that_cuts_no_trains_is_asked_once_or_a_few_times_and_loses_nothing() {
    for (code, asked) in
        [(libc::ENOPROTOOPT, 1), (libc::EOPNOTSUPP, 1), (libc::EINVAL, REFUSALS), (libc::EIO, REFUSALS)]
    {
        let (mut kernel, trains) = (Scripted::new(&[]), Trains::new(true));
        kernel.no_trains = Some(code);
        assert_eq!(send(&kernel, &trains, 20), (60, TransportErrors::default()), "{code}");
        assert_eq!(*kernel.sent.borrow(), (0..60).collect::<Vec<_>>());
        assert_eq!(*kernel.trains.borrow(), asked as usize, "{code}");
        assert_eq!(trains.below.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn a_path_that_is_too_narrow_for_a_train_does_not_end_trains() {
    let (mut kernel, trains) = (Scripted::new(&[]), Trains::new(true));
    kernel.no_trains = Some(libc::EMSGSIZE);
    assert_eq!(send(&kernel, &trains, 20), (60, TransportErrors::default()));
    assert_eq!(trains.below.load(Ordering::Relaxed), usize::MAX);
    assert_eq!(*kernel.sent.borrow(), (0..60).collect::<Vec<_>>());
}

#[test]
fn a_destination_that_cannot_be_reached_costs_its_own_train_only() {
    let kernel = Scripted::new(&[Takes(1), Says(libc::ENETUNREACH)]);
    let errors = TransportErrors { unreachable: 3, ..TransportErrors::default() };
    assert_eq!(send(&kernel, &Trains::new(true), 3), (6, errors));
    assert_eq!(*kernel.sent.borrow(), [0, 1, 2, 6, 7, 8]);
}
