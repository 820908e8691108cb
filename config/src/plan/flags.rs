//! The parts of a plan as flags write them: `--node NAME=SLOT[@ENDPOINT]`, `--hub NAME=ENDPOINT`, `--route CIDR=VIA`,
//! `--member NAME=CIDR[,CIDR]`.

use std::str::FromStr;

use crate::diagnostic::Mistake;
use crate::name::shown;
use crate::{Endpoint, Route, network};

use super::{PlanHub, PlanMember, PlanNode};

/// Why a flag could not be read, and how it is written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}: {fix}")]
pub struct FlagError {
    text: String,
    fix: String,
}

impl From<Mistake> for FlagError {
    fn from(mistake: Mistake) -> Self {
        Self { text: mistake.text, fix: mistake.fix }
    }
}

fn halves<'a>(text: &'a str, form: &str) -> Result<(&'a str, &'a str), FlagError> {
    match text.split_once('=') {
        Some((left, right)) if !left.is_empty() && !right.is_empty() => Ok((left, right)),
        _ => Err(FlagError {
            text: format!("`{}` has no two sides", shown(text)),
            fix: format!("write `{form}`"),
        }),
    }
}

fn endpoint(text: &str) -> Result<Endpoint, FlagError> {
    text.parse::<Endpoint>().map_err(|why| FlagError { text: why.to_string(), fix: why.fix() })
}

impl FromStr for PlanNode {
    type Err = FlagError;

    fn from_str(text: &str) -> Result<Self, FlagError> {
        let (name, rest) = halves(text, "cluster-1=56")?;
        let (slot, direct) = match rest.split_once('@') {
            Some((slot, direct)) => (slot, Some(endpoint(direct)?)),
            None => (rest, None),
        };
        Ok(Self { name: name.into(), slot: slot.into(), endpoint: direct })
    }
}

impl FromStr for PlanHub {
    type Err = FlagError;

    fn from_str(text: &str) -> Result<Self, FlagError> {
        let (name, rest) = halves(text, "hub-a=198.51.100.1:51820")?;
        Ok(Self { name: name.into(), endpoint: endpoint(rest)? })
    }
}

impl FromStr for PlanMember {
    type Err = FlagError;

    fn from_str(text: &str) -> Result<Self, FlagError> {
        let (name, rest) = halves(text, "dc=172.16.8.80/29,172.16.0.0/24")?;
        let allowed_ips = rest.split(',').map(|net| network::parse(net.trim())).collect::<Result<_, _>>()?;
        Ok(Self { name: name.into(), allowed_ips })
    }
}

impl FromStr for Route {
    type Err = FlagError;

    /// `172.16.0.0/24=hub-a`
    fn from_str(text: &str) -> Result<Self, FlagError> {
        let (cidr, via) = halves(text, "172.16.0.0/24=hub-a")?;
        Ok(Self { cidr: network::parse(cidr)?, via: via.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_the_contract_are_read() {
        let node: PlanNode = "cluster-1=56".parse().unwrap();
        assert_eq!((node.name.as_str(), node.slot.as_str(), node.endpoint), ("cluster-1", "56", None));
        let node: PlanNode = "cluster-1=172.16.8.56@198.51.100.7:1".parse().unwrap();
        assert_eq!(node.endpoint.unwrap().port(), 1);
        let hub: PlanHub = "hub-a=198.51.100.1:51820".parse().unwrap();
        assert_eq!(hub.endpoint.port(), 51820);
        let route: Route = "172.16.0.0/24=hub-a".parse().unwrap();
        assert_eq!((route.cidr.to_string().as_str(), route.via.as_str()), ("172.16.0.0/24", "hub-a"));
        let member: PlanMember = "dc=172.16.8.80/29, 172.16.0.0/24".parse().unwrap();
        assert_eq!(member.allowed_ips.len(), 2);
    }

    #[test]
    fn flags_that_cannot_be_read_say_how_they_are_written() {
        let said = |error: FlagError| error.to_string();
        assert_eq!(
            said("cluster-1".parse::<PlanNode>().unwrap_err()),
            "`cluster-1` has no two sides: write `cluster-1=56`"
        );
        assert_eq!(
            said("hub-a=198.51.100.1".parse::<PlanHub>().unwrap_err()),
            "`198.51.100.1` has no port: write `198.51.100.1:51820`, with the port that the other side listens on"
        );
        assert!(said("172.16.0.1/24=hub-a".parse::<Route>().unwrap_err()).contains("write `172.16.0.0/24`"));
        assert!(said("dc=0.0.0.0/0".parse::<PlanMember>().unwrap_err()).contains("default route"));
    }
}
