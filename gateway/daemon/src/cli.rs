//! The command line. Every command has help with an example.

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// A userspace overlay gateway for the servers of a cluster across clouds.
#[derive(Debug, Parser)]
#[command(name = "overlay-gw", version, propagate_version = true, arg_required_else_help = true)]
#[command(
    after_help = "Example, on a fresh machine:\n  overlay-gw up --slot 56      then, in another terminal: ping 172.16.8.56\n\nExit codes: 0 ok, 1 degraded, 2 down, 3 no service runs, 4 bad input"
)]
pub struct Cli {
    /// For every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run this node: adapter, gateway, overlay. Stays in the foreground; Ctrl-C undoes it
    #[command(
        after_help = "Examples:\n  overlay-gw up --slot 56\n  overlay-gw up --config cluster-1/config.toml --persist"
    )]
    Up(UpArgs),
    /// Run a hub, where nodes meet. Needs no adapter and no privileges
    #[command(
        after_help = "Examples:\n  overlay-gw hub --config hub-a/config.toml\n  overlay-gw hub drain      before maintenance: nodes leave it without losing a packet"
    )]
    Hub(HubArgs),
    /// Cut an overlay into slots and write one ready configuration per node and hub
    #[command(
        after_help = "Example:\n  overlay-gw plan --overlay 172.16.8.0/24 --node cluster-1=56 --node cluster-2=64 --node cluster-3=72 \\\n    --hub hub-a=198.51.100.1:51820 --route 172.16.0.0/24=hub-a --dns 172.16.0.1 --out packs/\n\nThe folder holds the overlay's signing key: keep it. Later:\n  overlay-gw plan add-node --out packs/ --node cluster-4=80\n  overlay-gw plan revoke --out packs/ --node cluster-2"
    )]
    Plan(PlanArgs),
    /// Show how the service, its peers and its listeners are
    #[command(
        after_help = "Examples:\n  overlay-gw status\n  overlay-gw status --watch\n  overlay-gw status --json | jq .state\n\nExit codes: 0 ok, 1 degraded, 2 down, 3 no service runs"
    )]
    Status(StatusArgs),
    /// Add, remove or list the addresses of this node's slot that are live
    #[command(after_help = "Examples:\n  overlay-gw listener add 172.16.8.59\n  overlay-gw listener list")]
    Listener(ListenerArgs),
    /// List the peers; take members in or out while the service runs
    #[command(
        after_help = "Examples:\n  overlay-gw peer list --json\n  overlay-gw peer add cluster-4.record\n  overlay-gw peer remove cluster-2.record"
    )]
    Peer(PeerArgs),
    /// Apply a changed configuration file without touching what did not change
    #[command(after_help = "Example:\n  overlay-gw reload")]
    Reload,
    /// Stop the service and remove all that it added, also what a crash or --persist left behind
    #[command(after_help = "Example:\n  overlay-gw down")]
    Down,
    /// Install, remove, start, stop or show the Windows service
    #[command(
        after_help = "Examples:\n  overlay-gw service install --slot 56\n  overlay-gw service install --config C:\\packs\\cluster-1\\config.toml\n  overlay-gw service status"
    )]
    Service(ServiceArgs),
    /// Hold the adapter for a service (started by it, never by hand)
    #[command(hide = true)]
    AdapterHolder(HolderArgs),
    /// See it all on this one machine: a hub and three nodes in network namespaces. Changes nothing, leaves nothing
    #[command(
        after_help = "Examples:\n  overlay-gw demo\n  overlay-gw demo --keep      then try the commands that it prints\n\nExit codes: 0 every step held, 1 one did not, 4 this machine does not let it run"
    )]
    Demo(DemoArgs),
}

/// Options of every command, before or behind its name.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// Configuration file of `up` and `hub` [default: /etc/overlay-gw/config.toml]
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Folder for the key and the record of what was changed [default: /var/lib/overlay-gw/INSTANCE]
    #[arg(long, value_name = "DIR", global = true)]
    pub state_dir: Option<PathBuf>,
    /// Control socket [default: /run/overlay-gw/INSTANCE.sock; for commands, the only one there]
    #[arg(long, value_name = "PATH", global = true)]
    pub control: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// Log more: -v for decisions, -vv for packets
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,
}

/// `up`.
#[derive(Clone, Debug, Args)]
pub struct UpArgs {
    /// UDP port, or address and port, to listen on
    #[arg(long, value_name = "[ADDR:]PORT")]
    pub listen: Option<String>,
    /// This node's slot: the last octet of its first address (56), or that address
    #[arg(long)]
    pub slot: Option<String>,
    /// The overlay network [default: 172.16.8.0/24]
    #[arg(long, value_name = "CIDR")]
    pub overlay: Option<String>,
    /// Name of the adapter [default: Overlay]
    #[arg(long, value_name = "NAME")]
    pub device: Option<String>,
    /// tun (layer 3) or tap (layer 2, where ARP is answered) [default: tun]
    #[arg(long)]
    pub mode: Option<String>,
    /// On exit leave adapter, addresses and routes in place for the next `up`
    #[arg(long)]
    pub persist: bool,
}

/// `status`.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// Show it again each second until Ctrl-C; with --json one line each time
    #[arg(long)]
    pub watch: bool,
}

/// `hub`.
#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct HubArgs {
    /// A command to the hub that runs
    #[command(subcommand)]
    pub action: Option<HubAction>,
    /// UDP port, or address and port, to listen on
    #[arg(long, value_name = "[ADDR:]PORT")]
    pub listen: Option<String>,
}

/// A command to the hub that runs.
#[derive(Clone, Debug, Subcommand)]
pub enum HubAction {
    /// Ask every node to leave this hub for another one, before it is stopped. It goes on serving those that cannot
    #[command(
        after_help = "Examples:\n  overlay-gw hub drain\n  overlay-gw hub drain --stop      it may be used again"
    )]
    Drain {
        /// Take it back: the hub may be used again
        #[arg(long)]
        stop: bool,
    },
}

/// `plan`.
#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct PlanArgs {
    /// A later change to a plan
    #[command(subcommand)]
    pub action: Option<PlanAction>,
    /// The overlay network
    #[arg(long, value_name = "CIDR", default_value = "172.16.8.0/24")]
    pub overlay: String,
    /// Length of a slot's prefix
    #[arg(long, value_name = "BITS", default_value_t = 29)]
    pub slot_prefix: u8,
    /// A node and its slot; with an endpoint when others can reach it directly
    #[arg(long = "node", value_name = "NAME=SLOT[@HOST:PORT]", required = true)]
    pub nodes: Vec<String>,
    /// A hub and its endpoint
    #[arg(long = "hub", value_name = "NAME=HOST:PORT")]
    pub hubs: Vec<String>,
    /// A plain WireGuard member of the hubs and the networks that it owns
    #[arg(long = "member", value_name = "NAME=CIDR[,CIDR]")]
    pub members: Vec<String>,
    /// A network behind a hub or member
    #[arg(long = "route", value_name = "CIDR=VIA")]
    pub routes: Vec<String>,
    /// A DNS server for the nodes
    #[arg(long = "dns", value_name = "ADDRESS")]
    pub dns: Vec<String>,
    /// Folder for the packs; nothing in it is overwritten
    #[arg(long, value_name = "DIR", required = true)]
    pub out: Option<PathBuf>,
}

/// A later change to a plan.
#[derive(Clone, Debug, Subcommand)]
pub enum PlanAction {
    /// One node more: its pack, and the signed record that the others learn it by
    #[command(
        after_help = "Examples:\n  overlay-gw plan add-node --out packs/ --node cluster-4=80\n  overlay-gw peer add packs/cluster-4.record      on a hub: the others learn it from there\n\nA machine that was rebuilt gets a new key, and the old one is revoked:\n  overlay-gw plan add-node --out packs/ --node cluster-2=64 --replace"
    )]
    AddNode {
        /// Folder of the plan: it holds the signing key and the records
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// The node and its slot; with an endpoint when others can reach it directly
        #[arg(long, value_name = "NAME=SLOT[@HOST:PORT]")]
        node: String,
        /// It takes the place of the node with that name or slot
        #[arg(long)]
        replace: bool,
    },
    /// End the membership of a node or hub: the signed record that its sessions end by
    #[command(
        after_help = "Example:\n  overlay-gw plan revoke --out packs/ --node cluster-2\n  overlay-gw peer remove packs/cluster-2.record      on a hub: the others learn it from there"
    )]
    Revoke {
        /// Folder of the plan: it holds the signing key and the records
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// The member's name
        #[arg(long, value_name = "NAME")]
        node: String,
    },
}

/// `listener`.
#[derive(Clone, Debug, Args)]
pub struct ListenerArgs {
    /// What to do
    #[command(subcommand)]
    pub action: ListenerAction,
}

/// What to do with listeners.
#[derive(Clone, Debug, Subcommand)]
pub enum ListenerAction {
    /// Put an address of the slot on the adapter
    Add {
        /// The address, of this node's slot
        address: String,
    },
    /// Take an address off that `add` put there
    Remove {
        /// The address
        address: String,
    },
    /// Show the addresses that are live, ours and the cluster's
    List,
}

/// `peer`.
#[derive(Clone, Debug, Args)]
pub struct PeerArgs {
    /// What to do
    #[command(subcommand)]
    pub action: PeerAction,
}

/// What to do with peers.
#[derive(Clone, Debug, Subcommand)]
pub enum PeerAction {
    /// Show the peers
    List,
    /// Take in members: signed records that `plan add-node` wrote
    Add {
        /// The file, or - for standard input
        #[arg(value_name = "RECORD-FILE|-")]
        file: PathBuf,
    },
    /// End memberships: signed records that `plan revoke` wrote. Their sessions end
    Remove {
        /// The file, or - for standard input
        #[arg(value_name = "RECORD-FILE|-")]
        file: PathBuf,
    },
}

/// `service`.
#[derive(Clone, Debug, Args)]
pub struct ServiceArgs {
    /// What to do
    #[command(subcommand)]
    pub action: ServiceAction,
}

/// What to do with the service.
#[derive(Clone, Debug, Subcommand)]
pub enum ServiceAction {
    /// Register it: automatic start, delayed; restarted 5 s after a crash. With --config, that file is used
    Install {
        /// The slot, when no configuration file names it
        #[arg(long)]
        slot: Option<String>,
    },
    /// Stop it and take it out, with the adapter, the firewall rules and all else that it added
    Uninstall {
        /// Also remove configuration, keys and logs
        #[arg(long)]
        purge: bool,
    },
    /// Start it, and wait until packets flow
    Start,
    /// Stop it. The adapter stays, so that the cluster keeps its network
    Stop,
    /// Show whether it is installed and runs
    Status,
    /// Run under the service control manager, which alone calls this
    #[command(hide = true)]
    Run {
        /// As for `up`
        #[arg(long)]
        slot: Option<String>,
    },
}

/// `adapter-holder`.
#[derive(Clone, Debug, Args)]
pub struct HolderArgs {
    /// Name of the adapter
    #[arg(long)]
    pub name: String,
    /// GUID of the adapter, 32 hexadecimal digits
    #[arg(long)]
    pub guid: String,
}

/// `demo`.
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// Leave it up until Ctrl-C, and print commands to try in it
    #[arg(long)]
    pub keep: bool,
}
