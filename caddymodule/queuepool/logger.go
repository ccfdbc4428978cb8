package queuepool

import (
	"sync/atomic"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// followingCore writes to whatever logger it follows: a queue outlives the
// configuration whose loggers it began with.
type followingCore struct {
	current atomic.Pointer[zap.Logger]
	fields  []zapcore.Field
	parent  *followingCore
}

func (c *followingCore) follow(l *zap.Logger) { c.current.Store(l) }

func (c *followingCore) core() zapcore.Core {
	for c.parent != nil {
		c = c.parent
	}
	return c.current.Load().Core()
}

func (c *followingCore) Enabled(level zapcore.Level) bool { return c.core().Enabled(level) }

func (c *followingCore) With(fields []zapcore.Field) zapcore.Core {
	return &followingCore{parent: c, fields: append(c.fields[:len(c.fields):len(c.fields)], fields...)}
}

func (c *followingCore) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(entry.Level) {
		return checked.AddCore(entry, c)
	}
	return checked
}

func (c *followingCore) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	root := c
	for root.parent != nil {
		root = root.parent
	}
	l := root.current.Load()
	if name := l.Name(); entry.LoggerName == "" {
		entry.LoggerName = name
	} else if name != "" {
		entry.LoggerName = name + "." + entry.LoggerName
	}
	if checked := l.Core().Check(entry, nil); checked != nil {
		checked.Write(append(c.fields[:len(c.fields):len(c.fields)], fields...)...)
	}
	return nil
}

func (c *followingCore) Sync() error { return c.core().Sync() }
