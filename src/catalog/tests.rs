//! The catalog beside what a fresh walk says.
