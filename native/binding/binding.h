// Everything native/binding uses, as one precompiled header.
#pragma once

#include <napi.h>

#include "core/torch.h"
