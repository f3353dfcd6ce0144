//! Clauses of the rules for packets that are not proven, each of which can be taken out.

/// A clause that an end of the simulation does without. The property must fail without any of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clause {
    /// An unproven Down takes nobody down.
    DownNeedsProof,
    /// An unproven AdminDown takes nobody down.
    AdminDownNeedsProof,
    /// Init and Up that echo nothing are no sign of life.
    LifeNeedsProof,
    /// Two packets that echo the same unknown discriminator do not make it ours.
    NothingIsAdopted,
    /// Intervals are taken from proven packets only.
    IntervalsNeedProof,
    /// The mode is taken from proven packets only.
    ModeNeedsProof,
    /// The version is taken from proven packets only.
    VersionNeedsProof,
    /// The sender's discriminator is taken from proven packets only.
    DiscriminatorNeedsProof,
    /// A stateless answer is no transmission.
    AnswerIsNoTransmission,
    /// Stateless answers have a budget.
    AnswersArePaced,
    /// A Down from whoever has the discriminator of the proven peer need not wait for answers to others.
    ProvenPeerOvertakes,
    /// Nothing but a Down: the peer says Init to blind senders, too, and us.
    OnlyDownOvertakes,
    /// Down echoes what was proven, never what was claimed.
    DownEchoesNoClaim,
    /// Down echoes nothing from the third packet on.
    DownForgetsEcho,
    /// Init and Up that echo an earlier discriminator are answered while we are not Up.
    ClingingPeerIsAnswered,
}

impl Clause {
    pub(crate) const ALL: [Self; 15] = [
        Self::DownNeedsProof,
        Self::AdminDownNeedsProof,
        Self::LifeNeedsProof,
        Self::NothingIsAdopted,
        Self::IntervalsNeedProof,
        Self::ModeNeedsProof,
        Self::VersionNeedsProof,
        Self::DiscriminatorNeedsProof,
        Self::AnswerIsNoTransmission,
        Self::AnswersArePaced,
        Self::ProvenPeerOvertakes,
        Self::OnlyDownOvertakes,
        Self::DownEchoesNoClaim,
        Self::DownForgetsEcho,
        Self::ClingingPeerIsAnswered,
    ];
}
