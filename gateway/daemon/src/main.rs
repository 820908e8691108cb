//! overlay-gw: a userspace overlay gateway for the servers of a cluster. Reads the command line and dispatches.

mod claims;
mod cli;
mod client;
mod config_file;
mod control;
mod daemon;
mod exit;
mod gossip;
mod hub;
mod members;
mod node;
mod plan;
mod pulse;
mod random;
mod resolve;
mod service;
mod state;
mod status;
mod workers;

use clap::Parser;
use exit::Failure;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; a usage error is bad input.
            let code = if error.use_stderr() { exit::BAD_INPUT } else { exit::OK };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    service::log::init(cli.global.verbose, &cli.command);
    match run(&cli) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::from(failure.code)
        }
    }
}

fn run(cli: &cli::Cli) -> Result<u8, Failure> {
    let global = &cli.global;
    match &cli.command {
        cli::Command::Up(args) => node::up(args, global),
        cli::Command::Hub(args) => match args.action {
            Some(cli::HubAction::Drain { stop }) => client::drain(!stop, global),
            None => hub::run(args, global),
        },
        cli::Command::Plan(args) => plan::run(args, global),
        cli::Command::Status(args) => client::status(args, global),
        cli::Command::Listener(args) => client::listener(args, global),
        cli::Command::Peer(args) => client::peer(args, global),
        cli::Command::Reload => client::reload(global),
        cli::Command::Service(args) => service::run(args, global),
        cli::Command::AdapterHolder(args) => service::hold(args),
        cli::Command::Down => client::down(global),
        cli::Command::Demo(args) => service::demo::run(args, global),
    }
}
