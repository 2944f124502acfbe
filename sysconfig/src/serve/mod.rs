//! `sysconfig serve`: a small privileged helper, and `sysconfig ask`, its client.
//!
//! What needs root at run time is done here and nowhere else: binding the listed drives to vfio-
//! pci, giving them back, and moving interrupts. Separately auditable: [`config`] says what may be
//! done, [`rpc`] checks and does it, [`session`] bounds what a peer may send, [`server`] owns the
//! socket.

mod client;
mod config;
mod rpc;
mod server;
mod session;

use std::path::PathBuf;

use clap::Args;
use hybrid_conventions::Exit;

pub(crate) use client::{AskArgs, ask_command};
use config::{Config, DEFAULT_CONFIG};
use server::Server;

use crate::failure::Failure;
use crate::output;
use crate::root::Root;
use crate::sys::signals::StopSignals;

/// The command line of `serve`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "The socket belongs to root; its mode and group stand in the config. Each \
    request is one line of JSON-RPC 2.0 (device_list, device_bind, device_unbind, \
    irq_set_affinity, rpc_get_methods) and is logged to stderr.\n\n\
    Examples:\n  \
      sysconfig serve --example > /etc/hybrid-runtime/helper.toml\n  \
      sysconfig serve\n  \
      systemctl enable --now hybrid-sysconfig-helper.socket")]
pub(crate) struct ServeArgs {
    /// What may be done, and for whom; must belong to root
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// Print an example of the config and end
    #[arg(long)]
    example: bool,
    /// Sockets that the service manager passes; it sets the variable
    #[arg(long, value_name = "N", env = "LISTEN_FDS")]
    listen_fds: Option<u32>,
    /// The process that they are for; it sets the variable
    #[arg(long, value_name = "PID", env = "LISTEN_PID")]
    listen_pid: Option<u32>,
}

/// Serves until a signal ends it.
pub(crate) fn serve_command(root: &Root, args: &ServeArgs) -> Result<Exit, Failure> {
    if args.example {
        output::result(config::EXAMPLE)?;
        return Ok(Exit::Ok);
    }
    let path = args.config.to_string_lossy();
    let config = Config::read(root, &path)?;
    let signals =
        StopSignals::install().map_err(|error| Failure::error(format_args!("signals: {error}")))?;
    let passed = args.listen_fds.is_some_and(|count| count > 0)
        && args.listen_pid.is_none_or(|pid| pid == std::process::id());
    let server = if passed { Server::inherited()? } else { Server::made(&config)? };
    let devices: Vec<String> = config.devices.iter().map(|one| one.bdf.to_string()).collect();
    output::note(format_args!(
        "serving {} for {} (interrupts to CPUs {})",
        if passed {
            "the service manager's socket".into()
        } else {
            config.socket.display().to_string()
        },
        if devices.is_empty() { "no device".to_owned() } else { devices.join(" ") },
        if config.irq_cpus.is_empty() { "none".to_owned() } else { config.irq_cpus.to_string() },
    ));
    server.run(root, &config, &|| signals.pending(), &mut |line| output::note(line))?;
    Ok(signals.exit().unwrap_or(Exit::Ok))
}
