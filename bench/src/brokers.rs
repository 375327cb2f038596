//! What the neighbours speak, as far as it is measured: nats-server by `async-nats`, mosquitto by MQTT 3.1.1 written out by hand, and both
//! as holders of idle connections.

use anyhow::Result;
use clap::Subcommand;

pub mod guests;
pub mod mqtt;
pub mod nats;

use crate::{net, out};

/// Commands of `frontier-bench broker`; each prints one line of JSON.
#[derive(Subcommand, Clone, Debug)]
pub enum BrokerCommand {
    /// Request and reply through nats-server.
    NatsCall(nats::NatsArgs),
    /// QoS 1 messages through mosquitto.
    MqttPublish(mqtt::MqttArgs),
    /// Connections to mosquitto or nats-server that only greet.
    Guests(guests::GuestsArgs),
}

/// Runs a command and prints its sample.
///
/// # Errors
/// If the run failed; nothing is printed then.
pub fn run(command: &BrokerCommand) -> Result<()> {
    net::raise_descriptors()?;
    let pin = match command {
        BrokerCommand::NatsCall(args) => args.tasks.pin,
        BrokerCommand::MqttPublish(args) => args.pin,
        BrokerCommand::Guests(args) => args.pin,
    };
    if let Some(cpu) = pin {
        net::pin(cpu)?;
    }
    let sample = match command {
        BrokerCommand::NatsCall(args) => nats::run(args),
        BrokerCommand::MqttPublish(args) => mqtt::run(args),
        BrokerCommand::Guests(args) => guests::run(args),
    }?;
    out::line(&serde_json::to_string(&sample)?);
    Ok(())
}
