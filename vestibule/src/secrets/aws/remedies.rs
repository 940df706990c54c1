//! Remedies: the actions that help against an error of AWS Secrets Manager.

use super::errors;
use crate::secrets::source::{Operation, SourceError};

/// Returns the remedy of an error: for an audit, or for a start and a reload. No value of AWS has a lease.
pub(super) fn remedy(error: &SourceError, operation: Operation) -> &'static str {
    match (error, operation) {
        (SourceError::Missing(_), Operation::ReadVersions) => {
            "create or restore the secret, or correct its id in the configuration of the replicas"
        }
        (SourceError::Missing(_), _) => {
            "create the secret (restore it, if its deletion is scheduled), or correct its id"
        }
        (SourceError::Denied(_), Operation::ReadVersions) => {
            "allow secretsmanager:DescribeSecret on this id to the identity that audits; check the id too, because a \
             wrong id may get the same answer"
        }
        (SourceError::Denied(denial), _) if errors::is_about_key(denial) => {
            "allow kms:Decrypt on the KMS key of the secret, in the policy of the key and in that of this identity; check \
             that the key is enabled; a secret of another account must have a key of its own, and not aws/secretsmanager"
        }
        (SourceError::Denied(_), _) => {
            "allow secretsmanager:GetSecretValue on this id, and kms:Decrypt on its key if that is your own; check the \
             id too, because a wrong id may get the same answer"
        }
        (SourceError::NoIdentity(_), Operation::ReadVersions) => {
            "audit with an identity: a role of the pod, task or instance, which exists and trusts this workload"
        }
        (SourceError::NoIdentity(_), _) => {
            "give the process an identity: a role of its pod, task or instance, which exists and trusts this workload"
        }
        (SourceError::ClockWrong(_), _) => {
            "set the clock of this machine (NTP); if it is right, check the keys of the identity"
        }
        (SourceError::NotConnected { remedy: Some(remedy), .. }, _) => remedy,
        (
            SourceError::Unavailable(_) | SourceError::NotConnected { .. } | SourceError::Malformed(_),
            Operation::ReadVersions,
        ) => "check the path to the manager (Region, endpoint, network) and its health; then audit again",
        (SourceError::Malformed(_), _) => "put a text value at the manager, as a new version",
        (SourceError::Unavailable(_) | SourceError::NotConnected { .. }, _) => {
            "check the path to the manager (Region, endpoint, network) and its health; then start again"
        }
        (SourceError::Unanswered(_), _) => {
            "check the path to the manager (route, firewall, VPC endpoint); raise secrets.deadline if it is only slow"
        }
    }
}
