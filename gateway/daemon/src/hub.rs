//! `hub`: the same engine and event loop, without a device.

use crate::cli::{Global, HubArgs};
use crate::config_file::{Kind, Origin};
use crate::daemon::{self, Prepared};
use crate::exit::Failure;
use crate::random;
use overlay_config::{Config, Overrides};
use overlay_engine::{Engine, EngineSettings};
use std::sync::Arc;
use std::time::Instant;

/// Runs a hub until a signal or `down`.
///
/// # Errors
/// Everything that stops it before `ready`.
pub fn run(args: &HubArgs, global: &Global) -> Result<u8, Failure> {
    crate::service::block_on(async {
        let overrides = Overrides { listen: args.listen.clone(), ..Overrides::default() };
        let origin = Origin::new(Kind::Hub, global, overrides);
        let prepared = Prepared::new(origin, global, |config: &Config| config.name().to_owned()).await?;
        let settings = EngineSettings::from_config(&prepared.config);
        let engine =
            Arc::new(Engine::new(settings, *prepared.key.as_bytes(), Instant::now(), random::seed()));
        daemon::run(prepared, engine, None, false).await
    })
}
