//! The stack itself: start it, look at it, stop it, talk to it.

pub(super) mod down;
pub(super) mod env;
pub(super) mod logs;
pub(super) mod status;
pub(super) mod token;
pub(super) mod up;
